/*
 * test_number.c - every rounding, bit for bit, against the oracle's formats.py.
 *
 * tests/golden/number/number.safetensors was made by `tests/oracle/make_number_golden.py`: the value of every
 * code, awkward floats one by one, and hashes over two streams of a million floats that this test makes anew
 * from the same counter-based generator.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "test.h"

#include "checkpoint/checkpoint.h"

enum { COUNT = 1 << 20, CHUNK = 4096 };
#define GOLDEN 0x9e3779b97f4a7c15u

static struct safetensors *expected;
static float *input, *output;

static int set_up(void **state) {
    (void)state;
    struct sonde_error e;
    input = malloc(COUNT * sizeof(float));
    output = malloc(COUNT * sizeof(float));
    if (!input || !output || safetensors_open("tests/golden/number/number.safetensors", &expected, &e))
        return -1;
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    safetensors_close(expected);
    free(input);
    free(output);
    return 0;
}

static const struct tensor *golden(const char *name) {
    const struct tensor *t = safetensors_find(expected, name);
    if (!t)
        fail_msg("the golden file has no %s", name);
    return t;
}

static uint32_t bits_at(const char *name, size_t i) {
    uint32_t u;
    memcpy(&u, golden(name)->data + 4 * i, sizeof(u));
    return u;
}

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* random_floats() of the generator script. */
static void make_input(int kind) {
    for (uint64_t i = 0; i < COUNT; i++) {
        uint64_t u = mix((i + 1 + (uint64_t)kind * COUNT) * GOLDEN);
        uint32_t bits = (uint32_t)u;
        if (kind == 0) {
            if ((bits >> 23 & 255) == 255)
                bits &= 0xff7fffffu;
        } else {
            uint32_t man = u & 0x7fffff, exponent = 113 + (uint32_t)((u >> 48 & 31) % 25);
            if (u >> 40 & 1)
                man &= 0x7c0000;
            bits = (uint32_t)(u >> 63) << 31 | exponent << 23 | man;
        }
        input[i] = bits_float(bits);
    }
}

/* Compares hashes of COUNT results, whose bits `value` gives, with those of the golden file. */
static void check_stream(int kind, const char *what, uint32_t (*value)(size_t i)) {
    char name[32];
    snprintf(name, sizeof(name), "%d.%s", kind, what);
    const struct tensor *t = golden(name);
    assert_int_equal(t->dims[0], COUNT / CHUNK);
    for (size_t c = 0; c < COUNT / CHUNK; c++) {
        uint64_t sum = 0, want;
        for (uint64_t i = 0; i < CHUNK; i++)
            sum += mix((i << 32 | value(c * CHUNK + i)) * GOLDEN + 1);
        memcpy(&want, t->data + 8 * c, sizeof(want));
        if (sum != want)
            fail_msg("%s: results %zu to %zu are not the oracle's", name, c * CHUNK, (c + 1) * CHUNK - 1);
    }
}

static uint32_t value_input(size_t i) {
    return float_bits(input[i]);
}
static uint32_t value_bf16(size_t i) {
    return bf16_encode(input[i]);
}
static uint32_t value_e4m3(size_t i) {
    return e4m3_encode(input[i]);
}
static uint32_t value_e2m1(size_t i) {
    return e2m1_encode(input[i]);
}
static uint32_t value_pow2(size_t i) {
    return float_bits(pow2_ceil(fminf(fabsf(input[i]), 0x1p127f)));
}
static uint32_t value_output(size_t i) {
    return float_bits(output[i]);
}

static void test_round__two_million_floats_as_the_oracle(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        make_input(kind);
        check_stream(kind, "input", value_input);
        check_stream(kind, "bf16", value_bf16);
        check_stream(kind, "e4m3", value_e4m3);
        check_stream(kind, "e2m1", value_e2m1);
        check_stream(kind, "pow2", value_pow2);
    }
}

static void test_fake__two_million_floats_as_the_oracle(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        make_input(kind);
        memcpy(output, input, COUNT * sizeof(float));
        e4m3_fake(output, COUNT, 128);
        check_stream(kind, "fake8", value_output);
        memcpy(output, input, COUNT * sizeof(float));
        e4m3_fake(output, COUNT, 64);
        check_stream(kind, "fake8.64", value_output);
        memcpy(output, input, COUNT * sizeof(float));
        e2m1_fake(output, COUNT, 32);
        check_stream(kind, "fake4", value_output);
    }
}

static void test_round__ties_subnormals_and_saturation(void **state) {
    (void)state;
    size_t n = golden("special")->dims[0];
    assert_true(n > 800);
    for (size_t i = 0; i < n; i++) {
        float x = bits_float(bits_at("special", i));
        assert_int_equal(float_bits(bf16_round(x)), bits_at("special.bf16", i));
        assert_int_equal(float_bits(e4m3_value[e4m3_encode(x)]), bits_at("special.e4m3", i));
        assert_int_equal(float_bits(e2m1_value[e2m1_encode(x)]), bits_at("special.e2m1", i));
    }
}

static void test_decode__every_code(void **state) {
    (void)state;
    for (size_t i = 0; i < 256; i++) {
        if ((i & 0x7f) == 0x7f) {
            assert_true(isnan(e4m3_value[i]));
            continue;
        }
        assert_int_equal(float_bits(e4m3_value[i]), bits_at("e4m3", i));
        assert_int_equal(e4m3_encode(e4m3_value[i]), i);
    }
    for (size_t i = 0; i < 16; i++) {
        assert_int_equal(float_bits(e2m1_value[i]), bits_at("e2m1", i));
        assert_int_equal(e2m1_encode(e2m1_value[i]), i);
    }
    for (size_t i = 0; i < 255; i++) {
        assert_int_equal(float_bits(e8m0_decode((uint8_t)i)), bits_at("e8m0", i));
        if (i)
            assert_int_equal(e8m0_encode(e8m0_decode((uint8_t)i)), i);
    }
    assert_true(isnan(e8m0_decode(255)));
    for (uint32_t h = 0, i = 0; h < 65536; h++) {
        if ((h >> 10 & 31) != 31)
            assert_int_equal(float_bits(f16_decode((uint16_t)h)), bits_at("f16", i++));
        else
            assert_true(h & 0x3ff ? isnan(f16_decode((uint16_t)h)) : isinf(f16_decode((uint16_t)h)));
    }
}

static void test_round__what_is_not_finite_stays_so(void **state) {
    (void)state;
    assert_true(isnan(bf16_round(NAN)));
    assert_true(isnan(bf16_round(bits_float(0x7fffffff))));
    assert_true(isnan(bf16_round(bits_float(0xff800001))));
    assert_true(isinf(bf16_round(INFINITY)));
    assert_true(isinf(bf16_round(3.4e38f)));
    assert_int_equal(e4m3_encode(NAN), 0x7f);
    assert_int_equal(e4m3_encode(INFINITY), 0x7e);
    assert_int_equal(e4m3_encode(-INFINITY), 0xfe);
    assert_int_equal(e2m1_encode(INFINITY), 7);
    float block[32] = {1, 2, NAN};
    e2m1_fake(block, 32, 32);
    assert_true(isnan(block[0]) && isnan(block[31]));
    float wide[128] = {1, INFINITY};
    e4m3_fake(wide, 128, 128);
    assert_true(isnan(wide[0]) && isnan(wide[127]));
}

/* The scale is an e4m3 number: 2^-9 at least, even of nothing but zeros, and 448 at most. */
static void test_fake__of_e2m1_with_a_scale_of_e4m3(void **state) {
    float block[64] = {0};
    (void)state;
    e2m1_e4m3_fake(block, 16, 16);
    assert_true(block[0] == 0 && !signbit(block[0]));
    block[0] = 6.6f; /* the scale is 1.125, for 1.1 is nearer to that than to 1 */
    block[1] = 1.2f;
    block[2] = -0.5f;
    block[16] = 0x1p-10f;
    block[17] = 0x1p-12f;
    block[32] = 1e6f;
    block[33] = -100;
    block[48] = NAN;
    e2m1_e4m3_fake(block, 64, 16);
    assert_true(block[0] == 6 * 1.125f && block[1] == 1.125f && block[2] == -0.5f * 1.125f);
    assert_true(block[16] == 0x1p-10f && block[17] == 0);
    assert_true(block[32] == 6 * 448 && block[33] == 0);
    assert_true(isnan(block[48]) && isnan(block[63]));
}

static bool same(float a, float b) {
    return float_bits(a) == float_bits(b) || (isnan(a) && isnan(b));
}

/* What a row reads back as, by the functions that round without packing. */
static void fake_row(const struct row_format *f, float *x) {
    bool index = f->kind == ROW_INDEX;
    uint32_t block = index ? ROW_INDEX_BLOCK : ROW_KEY_BLOCK, plain = f->dim - f->rotated;
    if (f->kind == ROW_F32)
        return;
    for (uint32_t c = 0; c < plain; c += block) {
        uint32_t count = plain - c < block ? plain - c : block;
        (index ? e2m1_fake : e4m3_fake)(x + c, count, count);
    }
    for (uint32_t c = plain; c < f->dim && f->kind == ROW_KEY; c++)
        x[c] = bf16_round(x[c]);
}

static void test_rows__read_back_as_they_round(void **state) {
    (void)state;
    static const struct row_format formats[] = {
        {ROW_F32, 5, 0},       {ROW_KEY, 512, 64},   {ROW_KEY, 96, 32},  {ROW_KEY, 64, 64},   {ROW_KEY, 77, 7},
        {ROW_KEY_F32, 96, 32}, {ROW_KEY_F32, 77, 7}, {ROW_INDEX, 32, 0}, {ROW_INDEX, 128, 0}, {ROW_INDEX, 45, 0}};
    make_input(0);
    for (size_t i = 0, at = 0; i < 10 * COUNT_OF(formats); i++, at += 512) {
        const struct row_format *f = &formats[i % COUNT_OF(formats)];
        uint8_t row[4 * 512 + 1];
        float want[512], got[512];
        uint32_t cut = f->dim / 3 / 2 * 2;
        memcpy(want, input + at, sizeof(want));
        fake_row(f, want);
        row[row_bytes(f)] = 0xa5;
        row_encode(f, input + at, row);
        assert_int_equal(row[row_bytes(f)], 0xa5);
        row_decode(f, row, 0, cut, got);
        row_decode(f, row, cut, f->dim - cut, got + cut);
        for (uint32_t c = 0; c < f->dim; c++)
            assert_true(same(got[c], want[c]));
    }
}

static void test_rows__lie_as_documented(void **state) {
    (void)state;
    const struct row_format key = {ROW_KEY, 512, 64}, index = {ROW_INDEX, 128, 0}, small = {ROW_KEY, 66, 2};
    assert_int_equal(row_bytes(&key), 448 + 7 + 1 + 128);
    assert_int_equal(row_bytes(&index), 64 + 4);
    assert_int_equal(row_bytes(&(struct row_format){ROW_KEY_F32, 512, 64}), 448 + 7 + 1 + 256);
    assert_int_equal(row_bytes(&(struct row_format){ROW_F32, 512, 64}), 2048);
    float x[128] = {448, -1, [64] = 1, [65] = -2};
    uint8_t row[80], want[70] = {0x7e, 0xb8, [64] = 127, [66] = 0x80, 0x3f, 0x00, 0xc0};
    row_encode(&small, x, row);
    assert_memory_equal(row, want, sizeof(want));
    x[0] = 6;
    row_encode(&index, x, row);
    assert_int_equal(row[0], 0xa7);  /* 6 in the low nibble, -1 in the high one */
    assert_int_equal(row[32], 0xe4); /* 1 and -2 where the scale is 1/2: 2 and -4 */
    x[1] = NAN;
    row_encode(&small, x, row);
    assert_int_equal(row[64], 255);
    assert_int_equal(row[0], 0);
}

static void test_matrix__decodes_every_format_at_any_place(void **state) {
    (void)state;
    /* 3 x 5 FP8 in blocks of 2 x 2, scales 2^0 .. 2^5 */
    uint8_t codes[15], scales[6];
    for (int i = 0; i < 15; i++)
        codes[i] = e4m3_encode((float)(i + 1));
    for (int i = 0; i < 6; i++)
        scales[i] = (uint8_t)(127 + i);
    struct matrix m = {.format = FORMAT_FP8,
                       .rows = 3,
                       .cols = 5,
                       .data = codes,
                       .scale_format = SCALE_E8M0,
                       .scale = scales,
                       .block_rows = 2,
                       .block_cols = 2,
                       .scale_cols = 3};
    float out[4];
    matrix_decode(&m, 2, 1, 4, out);
    const float want[] = {12 * 8, 13 * 16, 14 * 16, 15 * 32};
    assert_memory_equal(out, want, sizeof(want));
    assert_int_equal(matrix_bytes(&m), 15 + 6);
    float wide_scales[6] = {1, 2, 4, 8, 16, 32};
    m.scale_format = SCALE_F32;
    m.scale = wide_scales;
    matrix_decode(&m, 2, 1, 4, out);
    assert_memory_equal(out, want, sizeof(want));
    assert_int_equal(matrix_bytes(&m), 15 + 24);

    /* 2 x 64 FP4, blocks of 32: even column in the low nibble */
    uint8_t packed[64] = {0}, fine[4] = {127, 128, 126, 129};
    packed[32 + 16] = 0x2 | 0xf << 4; /* row 1, columns 32 and 33: 1.0, -6.0 */
    struct matrix f = {.format = FORMAT_FP4,
                       .rows = 2,
                       .cols = 64,
                       .data = packed,
                       .scale_format = SCALE_E8M0,
                       .scale = fine,
                       .block_rows = 1,
                       .block_cols = 32,
                       .scale_cols = 2};
    matrix_decode(&f, 1, 30, 4, out);
    const float four[] = {0, 0, 4, -24};
    assert_memory_equal(out, four, sizeof(four));
    assert_int_equal(matrix_bytes(&f), 64 + 4);

    /* unaligned BF16 */
    uint8_t bytes[9] = {0xee, 0x80, 0x3f, 0x00, 0xc0, 0x40, 0x40, 0x80, 0x40};
    struct matrix b = {.format = FORMAT_BF16, .rows = 2, .cols = 2, .data = bytes + 1};
    matrix_decode(&b, 1, 0, 2, out);
    assert_true(out[0] == 3 && out[1] == 4);
}

static void test_dtype__names_go_both_ways(void **state) {
    (void)state;
    enum dtype d = DTYPE_F32;
    for (int i = 0; i < DTYPE_COUNT; i++) {
        assert_true(dtype_parse(dtype_name((enum dtype)i), strlen(dtype_name((enum dtype)i)), &d));
        assert_int_equal(d, i);
    }
    assert_false(dtype_parse("F8_E5M2", 7, &d));
    assert_false(dtype_parse("F32x", 4, &d));
    assert_int_equal(dtype_bytes(DTYPE_F8_E8M0), 1);
    assert_int_equal(dtype_bytes(DTYPE_I64), 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round__two_million_floats_as_the_oracle),
        cmocka_unit_test(test_fake__two_million_floats_as_the_oracle),
        cmocka_unit_test(test_round__ties_subnormals_and_saturation),
        cmocka_unit_test(test_fake__of_e2m1_with_a_scale_of_e4m3),
        cmocka_unit_test(test_decode__every_code),
        cmocka_unit_test(test_round__what_is_not_finite_stays_so),
        cmocka_unit_test(test_rows__read_back_as_they_round),
        cmocka_unit_test(test_rows__lie_as_documented),
        cmocka_unit_test(test_matrix__decodes_every_format_at_any_place),
        cmocka_unit_test(test_dtype__names_go_both_ways),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
