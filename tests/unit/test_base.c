/* test_base.c - errors, buffers, arenas, files, JSON, chance. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

#include "base/base.h"

static void test_err__keeps_the_sentence_on_one_line(void **state) {
    (void)state;
    struct sonde_error e;
    assert_int_equal(err_set(&e, SONDE_ERROR_FORMAT, "tensor %s: bad", "a\nb\x1b[31m"), SONDE_ERROR_FORMAT);
    assert_string_equal(e.message, "tensor a?b?[31m: bad");
    assert_int_equal(e.code, SONDE_ERROR_FORMAT);
    assert_int_equal(err_set(NULL, SONDE_ERROR_IO, "nobody reads"), SONDE_ERROR_IO);
}

static void test_err__shortens_what_is_too_long(void **state) {
    (void)state;
    struct sonde_error e;
    char name[2000];
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    err_set(&e, SONDE_ERROR_FORMAT, "%s", name);
    assert_int_equal(strlen(e.message), sizeof(e.message) - 1);
    assert_string_equal(e.message + sizeof(e.message) - 4, "...");
}

static void test_err__hides_control_characters_beyond_ascii(void **state) {
    (void)state;
    struct sonde_error e;
    err_set(&e, SONDE_ERROR_FORMAT, "%s",
            "a\xc2\x9b"
            "31m\xc2\x80\xc2\x9f \xc2\xa0 \xc3\x9b\xc2");
    assert_string_equal(e.message, "a?31m?? \xc2\xa0 \xc3\x9b\xc2");
}

static void test_err__cuts_between_characters(void **state) {
    (void)state;
    static const char *const characters[] = {"\xc3\xa9", "\xe4\xbd\xa0", "\xf0\x9f\x98\x80"};
    struct sonde_error e;
    for (size_t c = 0; c < COUNT_OF(characters); c++)
        for (int shift = 0; shift < 4; shift++) {
            struct buf name = {0};
            size_t n = strlen(characters[c]);
            for (int i = 0; i < shift; i++)
                buf_byte(&name, 'x');
            while (name.len < 1000)
                buf_string(&name, characters[c]);
            err_set(&e, SONDE_ERROR_FORMAT, "%s", name.data);
            size_t length = strlen(e.message);
            assert_in_range(length, sizeof(e.message) - n, sizeof(e.message) - 1);
            assert_string_equal(e.message + length - 3, "...");
            assert_int_equal((length - 3 - (size_t)shift) % n, 0);
            buf_release(&name);
        }
}

static void test_err__names_codes(void **state) {
    (void)state;
    assert_string_equal(sonde_code_name(SONDE_OK), "OK");
    assert_string_equal(sonde_code_name(SONDE_ERROR_CONTEXT), "CONTEXT");
    assert_string_equal(sonde_code_name(-99), "UNKNOWN");
}

static void test_size__refuses_overflow(void **state) {
    (void)state;
    uint64_t out = 7;
    assert_false(size_mul(UINT64_MAX / 2, 3, &out));
    assert_false(size_add(UINT64_MAX, 1, &out));
    assert_int_equal(out, 7);
    assert_true(size_mul(6, 7, &out));
    assert_int_equal(out, 42);
    assert_int_equal(ceil_div(257, 128), 3);
    assert_int_equal(ceil_div(0, 128), 0);
}

static void test_buf__grows_and_is_taken(void **state) {
    (void)state;
    struct buf b = {0};
    for (int i = 0; i < 1000; i++)
        buf_printf(&b, "%d,", i % 10);
    buf_string(&b, "end");
    buf_byte(&b, 0);
    assert_int_equal(b.len, 2004);
    char *data;
    size_t n;
    assert_int_equal(buf_take(&b, &data, &n, NULL), 0);
    assert_int_equal(n, 2004);
    assert_memory_equal(data + 1998, "9,end", 6);
    assert_null(b.data);
    free(data);
    assert_int_equal(buf_take(&b, &data, NULL, NULL), 0);
    assert_string_equal(data, "");
    free(data);
}

static void test_buf__failure_sticks(void **state) {
    (void)state;
    struct buf b = {0};
    struct sonde_error e;
    char *data;
    buf_string(&b, "abc");
    b.len = SIZE_MAX - 2; /* the next append cannot be sized */
    buf_string(&b, "def");
    assert_true(b.failed);
    buf_string(&b, "ghi");
    assert_int_equal(buf_take(&b, &data, NULL, &e), SONDE_ERROR_MEMORY);
    assert_string_equal(e.message, "out of memory");
}

static void test_arena__counts_then_places_the_same(void **state) {
    (void)state;
    struct arena count = {0};
    arena_take(&count, 3, 4);
    arena_take(&count, 100, 1);
    assert_int_equal(count.used, 64 + 128);
    struct arena a = {.base = aligned_alloc(64, count.used), .size = count.used};
    uint8_t *first = arena_take(&a, 3, 4), *second = arena_take(&a, 100, 1);
    assert_ptr_equal(first, a.base);
    assert_ptr_equal(second, a.base + 64);
    assert_int_equal(a.used, a.size);
    free(a.base);
}

static void test_file__is_replaced_whole(void **state) {
    (void)state;
    char path[] = "/tmp/sonde-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    struct sonde_error e;
    assert_int_equal(file_write(path, "hello", 5, &e), 0);
    struct file_map map;
    assert_int_equal(file_map_open(path, &map, &e), 0);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    file_map_close(&map);
    struct buf b = {0};
    assert_int_equal(file_read(path, 4, &b, &e), SONDE_ERROR_FORMAT);
    buf_release(&b);
    assert_int_equal(file_read(path, 5, &b, &e), 0);
    assert_string_equal(b.data, "hello");
    buf_release(&b);
    unlink(path);
    assert_int_equal(file_map_open(path, &map, &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, path));
    assert_int_equal(file_map_open("/tmp", &map, &e), SONDE_ERROR_IO);
    assert_int_equal(file_write("/nonexistent/x", "a", 1, &e), SONDE_ERROR_IO);
}

/* A directory of its own under /tmp, entered; left and removed by leave(). */
static void enter(char *directory) {
    assert_non_null(mkdtemp(directory));
    assert_int_equal(chdir(directory), 0);
}

/* Fails unless the directory holds the names given, and no temporary file. */
static void leave(const char *directory, const char *const *names, int count) {
    for (int i = 0; i < count; i++)
        assert_int_equal(remove(names[i]), 0);
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(rmdir(directory), 0);
}

static void assert_holds(const char *path, const char *text) {
    struct buf b = {0};
    assert_int_equal(file_read(path, 100, &b, NULL), 0);
    assert_string_equal(b.data ? b.data : "", text);
    buf_release(&b);
}

static void test_file__writing_follows_links_and_keeps_permissions(void **state) {
    (void)state;
    char directory[] = "/tmp/sonde-test-XXXXXX", *home = getcwd(NULL, 0);
    struct sonde_error e;
    struct stat st;
    enter(directory);
    assert_int_equal(file_write("real", "old", 3, &e), 0);
    assert_int_equal(chmod("real", 0600), 0);
    assert_int_equal(symlink("real", "link"), 0);
    assert_int_equal(file_write("link", "new", 3, &e), 0);
    assert_int_equal(lstat("link", &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_holds("real", "new");
    assert_int_equal(stat("real", &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(symlink("nowhere", "loose"), 0);
    assert_int_equal(file_write("loose", "x", 1, &e), SONDE_ERROR_IO);
    assert_string_equal(e.message, "loose: cannot be written: No such file or directory");
    static const char *const names[] = {"real", "link", "loose"};
    leave(directory, names, COUNT_OF(names));
    assert_int_equal(chdir(home), 0);
    free(home);
}

static void test_file__a_device_is_written_to(void **state) {
    (void)state;
    char text[8] = "";
    struct sonde_error e;
    struct stat st;
    /* a terminal of its own: run by root, a mistake in what is tested would take /dev/null from the machine */
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) < 0 || unlockpt(terminal) < 0)
        skip(); /* no pseudo-terminals here */
    const char *device = ptsname(terminal);
    int keeps_open = open(device, O_RDWR | O_NOCTTY);
    assert_int_equal(file_write(device, "xyz", 3, &e), 0);
    assert_int_equal(read(terminal, text, sizeof(text)), 3);
    assert_string_equal(text, "xyz");
    assert_int_equal(stat(device, &st), 0);
    assert_true(S_ISCHR(st.st_mode));
    close(keeps_open);
    close(terminal);
}

static void test_file__what_cannot_be_replaced_is_written_to_or_refused(void **state) {
    (void)state;
    char directory[] = "/tmp/sonde-test-XXXXXX", *home = getcwd(NULL, 0), text[8] = "";
    struct sonde_error e;
    enter(directory);
    assert_int_equal(mkfifo("fifo", 0600), 0);
    int fd = open("fifo", O_RDONLY | O_NONBLOCK);
    assert_int_equal(file_write("fifo", "abc", 3, &e), 0);
    assert_int_equal(read(fd, text, sizeof(text)), 3);
    assert_string_equal(text, "abc");
    close(fd);
    assert_int_equal(mkdir("sub", 0700), 0);
    assert_int_equal(file_write("sub", "x", 1, &e), SONDE_ERROR_IO);
    assert_string_equal(e.message, "sub: cannot be written: is a directory");
    assert_int_equal(rmdir("sub"), 0);
    static const char *const names[] = {"fifo"};
    leave(directory, names, COUNT_OF(names));
    assert_int_equal(chdir(home), 0);
    free(home);
}

static void test_file__a_cancelled_replacement_leaves_nothing(void **state) {
    (void)state;
    char directory[] = "/tmp/sonde-test-XXXXXX", *home = getcwd(NULL, 0);
    struct file_replacement a = {0}, b;
    struct sonde_error e;
    file_replacement_cancel(&a);
    enter(directory);
    assert_int_equal(file_replacement_open(&a, "name", &e), 0);
    assert_int_equal(file_replacement_open(&b, "name", &e), 0); /* at the same time, in the same process */
    assert_string_not_equal(a.temporary, b.temporary);
    assert_int_equal(file_replacement_write(&a, "aa", 2, &e), 0);
    assert_int_equal(file_replacement_write(&b, "b", 1, &e), 0);
    assert_false(file_exists("name"));
    assert_int_equal(file_replacement_commit(&b, &e), 0);
    file_replacement_cancel(&a);
    assert_holds("name", "b");
    static const char *const names[] = {"name"};
    leave(directory, names, COUNT_OF(names));
    assert_int_equal(chdir(home), 0);
    free(home);
}

static void test_file__a_fifo_holds_nobody_up(void **state) {
    (void)state;
    char directory[] = "/tmp/sonde-test-XXXXXX", *home = getcwd(NULL, 0);
    struct sonde_error e;
    struct file_map map;
    struct buf b = {0};
    enter(directory);
    assert_int_equal(mkfifo("fifo", 0600), 0);
    alarm(20); /* instead of waiting for ever */
    assert_int_equal(file_map_open("fifo", &map, &e), SONDE_ERROR_IO);
    assert_string_equal(e.message, "fifo: not a regular file");
    assert_int_equal(file_read("fifo", 10, &b, &e), SONDE_ERROR_IO);
    assert_string_equal(e.message, "fifo: not a regular file");
    alarm(0);
    int fd = open("fifo", O_RDWR); /* so that the pipe keeps what the child writes */
    pid_t child = fork();
    if (child == 0)
        _exit(write(fd, "piped", 5) == 5 ? 0 : 1);
    assert_int_equal(waitpid(child, NULL, 0), child);
    child = fork(); /* closes the last writer once the reader is there */
    if (child == 0) {
        usleep(100000);
        _exit(0);
    }
    close(fd);
    assert_int_equal(file_read_input("fifo", 10, &b, &e), 0);
    assert_string_equal(b.data, "piped");
    buf_release(&b);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(file_read_input("/dev/null", 10, &b, &e), 0);
    assert_int_equal(b.len, 0);
    assert_int_equal(file_read_input(".", 10, &b, &e), SONDE_ERROR_IO);
    assert_string_equal(e.message, ".: Is a directory");
    static const char *const names[] = {"fifo"};
    leave(directory, names, COUNT_OF(names));
    assert_int_equal(chdir(home), 0);
    free(home);
}

static void test_file__a_full_disk_leaves_the_old_file(void **state) {
    (void)state;
    struct sonde_error e;
    assert_int_equal(file_write("/dev/full/x", "a", 1, &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, "/dev/full/x"));
}

static void test_json__names_source_and_line(void **state) {
    (void)state;
    struct sonde_error e;
    json_t *v = NULL;
    const char *bad = "{\n\"a\": 1,\n\"a\": 2}";
    assert_int_equal(json_parse(bad, strlen(bad), "config.json", &v, &e), SONDE_ERROR_FORMAT);
    assert_non_null(strstr(e.message, "config.json: not valid JSON, line 3"));
    assert_null(v);
    assert_int_equal(json_parse(NULL, 0, "x.json", &v, &e), SONDE_ERROR_FORMAT);
    assert_string_equal(e.message, "x.json: empty, where JSON was expected");
    assert_int_equal(json_parse("[1]", 3, "x", &v, &e), 0);
    assert_int_equal(json_array_size(v), 1);
    json_decref(v);
}

static void test_directories__are_made_with_those_above(void **state) {
    (void)state;
    char directory[] = "/tmp/sonde-XXXXXX";
    struct sonde_error e;
    enter(directory);
    assert_int_equal(file_make_directory("a//b/c/", 0777, &e), SONDE_OK);
    assert_int_equal(file_make_directory("a/b/c", 0777, &e), SONDE_OK);
    assert_true(file_exists("a/b/c"));
    assert_int_equal(file_write("a/file", "x", 1, &e), SONDE_OK);
    assert_int_equal(file_make_directory("a/file/d", 0777, &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, "a/file"));
    static const char *const names[] = {"a/b/c", "a/b", "a/file", "a"};
    leave(directory, names, COUNT_OF(names));
}

static const char *word_at(const void *context, size_t i) {
    return ((const char *const *)context)[i];
}

static void test_names__the_nearest_is_suggested(void **state) {
    (void)state;
    static const char *const words[] = {"steps", "seed", "data", "threads"};
    static const struct {
        const char *written, *meant;
    } cases[] = {{"step", "steps"}, {"spets", "steps"}, {"thread", "threads"},
                 {"sede", "seed"},  {"far off", NULL},  {"", NULL}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const char *meant = nearest_name(cases[i].written, COUNT_OF(words), word_at, words);
        if (cases[i].meant)
            assert_string_equal(meant, cases[i].meant);
        else
            assert_null(meant);
    }
}

static void test_rng__is_the_same_everywhere(void **state) {
    (void)state;
    struct rng r;
    rng_init(&r, 0);
    assert_int_equal(rng_u64(&r), 0x99ec5f36cb75f2b4u);
    double sum = 0;
    for (int i = 0; i < 100000; i++) {
        double u = rng_unit(&r);
        assert_true(u >= 0 && u < 1);
        sum += u;
    }
    assert_true(sum > 49500 && sum < 50500);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err__keeps_the_sentence_on_one_line),
        cmocka_unit_test(test_err__shortens_what_is_too_long),
        cmocka_unit_test(test_err__hides_control_characters_beyond_ascii),
        cmocka_unit_test(test_err__cuts_between_characters),
        cmocka_unit_test(test_err__names_codes),
        cmocka_unit_test(test_size__refuses_overflow),
        cmocka_unit_test(test_buf__grows_and_is_taken),
        cmocka_unit_test(test_buf__failure_sticks),
        cmocka_unit_test(test_arena__counts_then_places_the_same),
        cmocka_unit_test(test_file__is_replaced_whole),
        cmocka_unit_test(test_file__writing_follows_links_and_keeps_permissions),
        cmocka_unit_test(test_file__a_device_is_written_to),
        cmocka_unit_test(test_file__what_cannot_be_replaced_is_written_to_or_refused),
        cmocka_unit_test(test_file__a_cancelled_replacement_leaves_nothing),
        cmocka_unit_test(test_file__a_fifo_holds_nobody_up),
        cmocka_unit_test(test_file__a_full_disk_leaves_the_old_file),
        cmocka_unit_test(test_json__names_source_and_line),
        cmocka_unit_test(test_directories__are_made_with_those_above),
        cmocka_unit_test(test_names__the_nearest_is_suggested),
        cmocka_unit_test(test_rng__is_the_same_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
