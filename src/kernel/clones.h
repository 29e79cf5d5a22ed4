/*
 * clones.h - plain loops for the vectors of whatever processor runs them.
 *
 * A function marked KERNEL_CLONES is compiled for several sets of instructions, with all that it calls and the compiler
 * sees; when the program is loaded the best that runs here is taken. It is for loops that need no contract beside the C
 * they are written in: products and sums are not contracted and sums not reordered, so every clone gives the same bits.
 * Not for rotations, whose a c - b s beside a s + b c GCC 12 contracts nevertheless.
 *
 * Elsewhere, and under sanitizers, which are not yet there when a clone is chosen, it marks nothing.
 */
#ifndef KERNEL_CLONES_H
#define KERNEL_CLONES_H

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) &&                           \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define KERNEL_CLONES __attribute__((flatten, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define KERNEL_CLONES
#endif

#endif
