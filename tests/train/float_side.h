/* float_side.h - in a test that is compiled for double, between the passes' headers and the same headers again: those
 * then declare the float functions. */
#undef REAL
#define REAL(name) name##_f32
#define real       float
