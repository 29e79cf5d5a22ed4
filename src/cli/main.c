/* main.c - the program: finds the command, answers help and --version. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static const struct command *const commands[] = {
    &command_run,   &command_chat,  &command_inspect, &command_logits, &command_tokenize, &command_render,
    &command_parse, &command_synth, &command_bench,   &command_serve,  &command_train,
};

static const struct command *find_command(const char *name) {
    for (size_t i = 0; i < COUNT_OF(commands); i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static const char *command_name(const void *context, size_t i) {
    (void)context;
    return commands[i]->name;
}

static int unknown_command(const char *name) {
    const char *near = nearest_name(name, COUNT_OF(commands), command_name, NULL);
    if (near)
        return usage_error(NULL, "unknown command '%s' (did you mean '%s'?)", name, near);
    return usage_error(NULL, "unknown command '%s'", name);
}

static void overview(struct buf *b) {
    buf_printf(b, "sonde %s - runs DeepSeek-V4 models on the processor at hand\n\nusage: sonde COMMAND [options]\n\n",
               sonde_version());
    for (size_t i = 0; i < COUNT_OF(commands); i++)
        buf_printf(b, "  %-10s%s\n", commands[i]->name, commands[i]->summary);
    buf_string(b, "  help      this text; sonde help COMMAND explains one\n"
                  "  --version\n\n"
                  "MODEL is a directory with config.json, *.safetensors and tokenizer.json. Where it may\n"
                  "be left out, the bundled model is used, or the one the variable SONDE_MODEL names.\n");
}

static int help(int argc, char **argv) {
    struct output out = {.fd = STDOUT_FILENO};
    struct buf b = {0};
    if (argc > 2)
        return usage_error(NULL, "help takes one command");
    if (argc == 2) {
        const struct command *c = find_command(argv[1]);
        return c ? command_help(c) : unknown_command(argv[1]);
    }
    overview(&b);
    output_buf(&out, &b);
    return output_status(&out);
}

static int version(void) {
    struct output out = {.fd = STDOUT_FILENO};
    struct buf b = {0};
    buf_printf(&b, "sonde %s\n", sonde_version());
    output_buf(&out, &b);
    return output_status(&out);
}

/* A standard descriptor that came closed would be handed out again for the first file opened, and answers
 * would be written into it. One that refuses to be used takes its place. */
static void fill_standard_descriptors(void) {
    int fd;
    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

int main(int argc, char **argv) {
    fill_standard_descriptors();
    if (argc < 2)
        return usage_error(NULL, "a command is missing");
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return help(argc - 1, argv + 1);
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0)
        return version();
    const struct command *c = find_command(name);
    return c ? c->run(argc - 1, argv + 1) : unknown_command(name);
}
