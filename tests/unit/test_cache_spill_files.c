/*
 * test_cache_spill_files.c - the store's directory when it is not as the store left it: files that are broken, foreign
 * or somebody else's, and a system that refuses.
 */
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <xxhash.h>

#include "spill_scratch.h"

/* --------------------------------------------------------------------------------- broken files */

/* Opens the store over one file of these bytes, whose piece must not be found; a line must say why and the file be
 * gone. */
static void is_broken(const char *name, const char *bytes, size_t count, struct spill_key key, size_t size,
                      bool noise) {
    write_file(name, bytes, count);
    lines.count = 0;
    open_store(1 << 20);
    assert_false(get(key, size, noise));
    assert_false(has(key));
    assert_int_equal(spill_bytes(store), 0);
    close_store();
    if (lines.count != 1 || !strstr(lines.last, name) || !strstr(lines.last, "; removed"))
        fail_msg("%d lines, the last one: %s", lines.count, lines.last);
    assert_false(file_exists(path_of(name)));
}

static void every_change_is_noticed(bool noise) {
    char name[256];
    struct buf b = {0};
    struct spill_key key = key_of('p', 1024, 3);
    open_store(1 << 20);
    put_into(store, key, 150, noise);
    close_store();
    assert_int_equal(files_ending(".sonde", name), 1);
    CHECKED(file_read(path_of(name), 1 << 20, &b, &error));
    assert_int_equal(b.len == SPILL_HEADER + 150, noise);
    for (size_t i = 0; i < b.len; i++)
        for (int flip = 1; flip < 256; flip = 16 * flip + 15) { /* a bit, and all of them */
            b.data[i] ^= (char)flip;
            is_broken(name, b.data, b.len, key, 150, noise);
            b.data[i] ^= (char)flip;
        }
    for (size_t n = 0; n < b.len; n++)
        is_broken(name, b.data, n, key, 150, noise);
    buf_byte(&b, 0);
    is_broken(name, b.data, b.len, key, 150, noise);
    write_file(name, b.data, b.len - 1);
    open_store(1 << 20);
    assert_true(get(key, 150, noise));
    buf_release(&b);
}

static void test_broken__every_byte_and_every_length_of_a_plain_piece(void **state) {
    (void)state;
    every_change_is_noticed(true);
}

static void test_broken__every_byte_and_every_length_of_a_compressed_piece(void **state) {
    (void)state;
    every_change_is_noticed(false);
}

static void put_number(char *at, int bytes, uint64_t value) {
    for (int i = 0; i < bytes; i++)
        at[i] = (char)(value >> 8 * i);
}

/* Makes both hashes of a changed file right again. */
static void sign(struct buf *b) {
    XXH128_hash_t body = XXH3_128bits(b->data + SPILL_HEADER, b->len - SPILL_HEADER);
    put_number(b->data + 80, 8, body.low64);
    put_number(b->data + 88, 8, body.high64);
    XXH128_hash_t header = XXH3_128bits(b->data, 112);
    put_number(b->data + 112, 8, header.low64);
    put_number(b->data + 120, 8, header.high64);
}

/* What is signed, but not true. */
static void test_broken__headers_that_lie(void **state) {
    (void)state;
    static const struct {
        int at, bytes;
        uint64_t value;
        const char *why;
    } lies[] = {
        {8, 4, 2, "its version is not 1"},
        {12, 1, 'q', "its header belongs to another name"},
        {16, 1, 8, "its header belongs to another name"},
        {32, 8, 1025, "its header belongs to another name"},
        {40, 8, 1, "its header belongs to another name"},
        {48, 8, 1, "its header belongs to another name"},
        {13, 1, 0, "its header and its size do not fit each other"},
        {13, 1, 2, "its header and its size do not fit each other"},
        {56, 8, 0, "its header and its size do not fit each other"},
        {56, 8, (uint64_t)1 << 34, "its header and its size do not fit each other"},
        {56, 8, ((uint64_t)1 << 34) + 1, "its header and its size do not fit each other"},
        {56, 8, 149, "its header and its frame do not fit each other"},
        {56, 8, 151, "its header and its frame do not fit each other"},
        {64, 8, 10, "its header and its size do not fit each other"},
        {64, 8, UINT64_MAX, "its header and its size do not fit each other"},
        {128, 1, 0, "its header and its frame do not fit each other"},
        {133, 1, 149, "its header and its frame do not fit each other"},
        {134, 1, 0xff, "its header and its frame do not fit each other"},
        {150, 1, 0, "its frame is damaged"},
    };
    char name[256];
    struct buf b = {0};
    struct spill_key key = key_of('p', 1024, 3);
    open_store(1 << 20);
    put_into(store, key, 150, false);
    close_store();
    assert_int_equal(files_ending(".sonde", name), 1);
    CHECKED(file_read(path_of(name), 1 << 20, &b, &error));
    for (size_t i = 0; i < COUNT_OF(lies); i++) {
        struct buf lie = {0};
        buf_append(&lie, b.data, b.len);
        put_number(lie.data + lies[i].at, lies[i].bytes, lies[i].value);
        sign(&lie);
        is_broken(name, lie.data, lie.len, key, 150, false);
        if (!strstr(lines.last, lies[i].why))
            fail_msg("lie %zu: %s", i, lines.last);
        buf_release(&lie);
    }
    buf_release(&b);
}

static void test_broken__while_the_store_is_open(void **state) {
    (void)state;
    char name[256];
    open_store(1 << 20);
    put(key_of('p', 1, 1), 1000);
    spill_flush(store);
    files_ending(".sonde", name);
    assert_int_equal(truncate(path_of(name), 500), 0);
    assert_true(has(key_of('p', 1, 1)));
    assert_false(get(key_of('p', 1, 1), 1000, true));
    assert_int_equal(lines.count, 1);
    assert_false(has(key_of('p', 1, 1)));
    assert_int_equal(spill_bytes(store), 0);
    put(key_of('p', 1, 1), 1000);
    spill_flush(store);
    assert_true(get(key_of('p', 1, 1), 1000, true));
    unlink(path_of(name));
    assert_false(get(key_of('p', 1, 1), 1000, true));
    assert_false(has(key_of('p', 1, 1)));
    assert_int_equal(lines.count, 1);
}

static void test_broken__what_is_no_regular_file(void **state) {
    (void)state;
    char name[256];
    open_store(1 << 20);
    put(key_of('p', 1, 1), 1000);
    close_store();
    files_ending(".sonde", name);
    unlink(path_of(name));
    assert_int_equal(mkfifo(path_of(name), 0600), 0);
    open_store(1 << 20);
    close_store();
    assert_int_equal(lines.count, 1);
    assert_non_null(strstr(lines.last, "not a regular file; removed"));
    assert_int_equal(symlink("/etc/passwd", path_of(name)), 0);
    open_store(1 << 20);
    close_store();
    assert_int_equal(lines.count, 2);
    assert_int_equal(mkdir(path_of(name), 0700), 0);
    open_store(1 << 20);
    assert_int_equal(lines.count, 3);
    assert_non_null(strstr(lines.last, "cannot be removed"));
    assert_false(get(key_of('p', 1, 1), 1000, true));
    put(key_of('p', 1, 1), 1000);
    spill_flush(store);
    assert_false(has(key_of('p', 1, 1)));
    assert_int_equal(lines.count, 4);
}

/* --------------------------------------------------------------------------------- other people */

static void test_identity__others_are_left_alone(void **state) {
    (void)state;
    open_as(1 << 20, 1);
    for (uint64_t n = 0; n < 5; n++)
        put(key_of('p', 1, n), 1000);
    close_store();
    open_as(3 * 1128, 2);
    assert_int_equal(lines.count, 1);
    assert_non_null(strstr(lines.last, "5 pieces that are not this model's are left alone"));
    lengths_are('p', 10, "");
    for (uint64_t n = 0; n < 5; n++)
        assert_false(get(key_of('p', 1, n), 1000, true));
    for (uint64_t n = 0; n < 5; n++)
        put(key_of('p', 1, n), 1000);
    close_store();
    assert_int_equal(files_ending(".sonde", NULL), 8);
    open_as(1 << 20, 1);
    for (uint64_t n = 0; n < 5; n++)
        assert_true(get(key_of('p', 1, n), 1000, true));
}

static void test_names__others_are_left_alone(void **state) {
    (void)state;
    static const char *const names[] = {
        "README",
        "something.tmp",
        "model.sonde",
        "P-0000000000000001-00000000000000010000000000000001-07070707070707070707070707070707.sonde",
        "p-0000000000000001-0000000000000001000000000000000A-07070707070707070707070707070707.sonde",
        "p-0000000000000001-0000000000000001000000000000000-07070707070707070707070707070707.sonde",
        "p-0000000000000001-00000000000000010000000000000001-07070707070707070707070707070707.sondf",
        "p-0000000000000001-00000000000000010000000000000001-07070707070707070707070707070707.sonde.bak",
        "p_0000000000000001-00000000000000010000000000000001-07070707070707070707070707070707.sonde",
        "p-0000000000000001_00000000000000010000000000000001-07070707070707070707070707070707.sonde",
        "p-0000000000000001-00000000000000010000000000000001_07070707070707070707070707070707.sonde",
        "p-0000000000000001-00000000000000010000000000000001-070707070707070707070707070707 7.sonde",
    };
    open_store(1000);
    close_store();
    for (size_t i = 0; i < COUNT_OF(names); i++)
        write_file(names[i], "mine", 4);
    open_store(1000);
    put(key_of('p', 1, 1), 500);
    put(key_of('p', 1, 2), 500);
    close_store();
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct buf b = {0};
        CHECKED(file_read(path_of(names[i]), 100, &b, &error));
        assert_string_equal(b.data, "mine");
        buf_release(&b);
    }
    assert_int_equal(lines.count, 0);
}

static void test_temporaries__are_removed(void **state) {
    (void)state;
    open_store(1000);
    close_store();
    write_file("p-0000000000000001-00000000000000010000000000000001-07070707070707070707070707070707.sonde.tmp", "x",
               1);
    write_file("p-0000000000000001-00000000000000010000000000000001-01010101010101010101010101010101.sonde.tmp", "x",
               1);
    open_store(1000);
    assert_int_equal(files_ending(".tmp", NULL), 0);
    assert_int_equal(lines.count, 0);
}

/* ---------------------------------------------------------------------- what the system refuses */

/* The sentence of an open that must fail. */
static const char *refused(const char *path) {
    static struct sonde_error e;
    struct spill *s = NULL;
    struct spill_options o = options_of(1000, 1);
    o.directory = path;
    assert_int_equal(spill_open(&o, &s, &e), SONDE_ERROR_IO);
    assert_null(s);
    return e.message;
}

/* In a child: that nothing leaves this program's own locks, user and limits. 0: as it must be. */
static int in_child(int (*work)(void)) {
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(work());
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static int open_in_child(void) {
    struct sonde_error e = {0};
    struct spill *s = NULL;
    struct spill_options o = options_of(1000, 1);
    o.log = NULL;
    if (spill_open(&o, &s, &e) == SONDE_ERROR_IO)
        return strstr(e.message, "another process uses it") ? 1 : 2;
    spill_close(s);
    return 0;
}

static void test_open__one_process_at_a_time(void **state) {
    (void)state;
    open_store(1000);
    assert_int_equal(in_child(open_in_child), 1);
    assert_non_null(strstr(refused(store_path), "another process uses it"));
    close_store();
    assert_int_equal(in_child(open_in_child), 0);
}

static void test_open__refuses_what_is_no_directory(void **state) {
    (void)state;
    char path[200], expected[300];
    snprintf(path, sizeof(path), "%s/none/store", scratch);
    snprintf(expected, sizeof(expected), "%s: No such file or directory", path);
    assert_string_equal(refused(path), expected);
    CHECKED(file_write(store_path, "x", 1, &error));
    snprintf(expected, sizeof(expected), "%s: Not a directory", store_path);
    assert_string_equal(refused(store_path), expected);
    unlink(store_path);
}

/* As somebody who may read the directory, but not write to it. */
static int open_unwritable(void) {
    struct sonde_error e = {0};
    struct spill *s = NULL;
    struct spill_options o = options_of(1000, 1);
    if (geteuid() == 0 && setuid(65534))
        return 3;
    if (spill_open(&o, &s, &e) != SONDE_ERROR_IO)
        return 4;
    return strstr(e.message, "/lock: Permission denied") ? 0 : 5;
}

static void test_open__refuses_what_cannot_be_written(void **state) {
    (void)state;
    assert_int_equal(chmod(scratch, 0755), 0);
    assert_int_equal(mkdir(store_path, 0555), 0);
    assert_int_equal(in_child(open_unwritable), 0);
}

/* The directory is taken away while the store is open. */
static int lose_directory(void) {
    struct spill *s;
    struct spill_options o = options_of(100000, 1);
    if (geteuid() == 0 && setuid(65534))
        return 3;
    if (spill_open(&o, &s, NULL))
        return 4;
    put_into(s, key_of('p', 1, 1), 1000, true);
    spill_flush(s);
    struct spill_key first = key_of('p', 1, 1), second = key_of('p', 1, 2);
    bool before = spill_has(s, &first);
    chmod(store_path, 0555);
    put_into(s, second, 1000, true);
    put_into(s, key_of('p', 1, 3), 1000, true);
    spill_flush(s);
    bool after = spill_has(s, &first) && !spill_has(s, &second) && lines.count == 1;
    spill_remove(s, &first);
    after = after && lines.count == 2 && strstr(lines.last, "cannot be removed: Permission denied");
    chmod(store_path, 0777);
    put_into(s, second, 1000, true);
    spill_flush(s);
    bool again = spill_has(s, &second);
    spill_close(s);
    return before && after && again ? 0 : 5;
}

static void test_write__a_directory_that_is_lost_and_found(void **state) {
    (void)state;
    assert_int_equal(chmod(scratch, 0777), 0);
    assert_int_equal(in_child(lose_directory), 0);
}

static void allow_files_of(rlim_t bytes) {
    struct rlimit l;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &l), 0);
    l.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &l), 0);
}

/* The system takes no more than a part of a file, as on a full disk. */
static void test_write__that_fails_costs_the_piece_and_a_line(void **state) {
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    open_store(1 << 24);
    put(key_of('p', 1, 1), 1000);
    spill_flush(store);
    for (int round = 1; round <= 2; round++) {
        allow_files_of(50000);
        for (uint64_t n = 2; n < 6; n++)
            put(key_of('p', 1, n), 100000);
        spill_flush(store);
        allow_files_of(RLIM_INFINITY);
        assert_int_equal(lines.count, round);
        assert_non_null(strstr(lines.last, "cannot be written"));
        there_are(round == 1 ? "1" : "17");
        lengths_are('p', 1, "1 ");
        assert_int_equal(files_ending(".tmp", NULL), 0);
        assert_true(get(key_of('p', 1, 1), 1000, true));
        put(key_of('p', 1, 7), 100000);
        spill_flush(store);
        assert_true(get(key_of('p', 1, 7), 100000, true));
    }
    signal(SIGXFSZ, SIG_DFL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_broken__every_byte_and_every_length_of_a_plain_piece),
        TEST(test_broken__every_byte_and_every_length_of_a_compressed_piece),
        TEST(test_broken__headers_that_lie),
        TEST(test_broken__while_the_store_is_open),
        TEST(test_broken__what_is_no_regular_file),
        TEST(test_identity__others_are_left_alone),
        TEST(test_names__others_are_left_alone),
        TEST(test_temporaries__are_removed),
        TEST(test_open__one_process_at_a_time),
        TEST(test_open__refuses_what_is_no_directory),
        TEST(test_open__refuses_what_cannot_be_written),
        TEST(test_write__a_directory_that_is_lost_and_found),
        TEST(test_write__that_fails_costs_the_piece_and_a_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
