/*
 * synth.c - `sonde synth`: a random checkpoint with the shapes of a real one.
 *
 * Everything is written to OUT/.synth.PID.tmp and moved to OUT when whole, config.json last: what fails or is
 * interrupted leaves OUT as it was. One thread makes and writes a piece after the other: about 1 GB of numbers a
 * second, no less than common disks take.
 */
#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli/cli.h"
#include "synth_internal.h"

#define PIECE_BYTES    ((size_t)1 << 20) /* stays in a second-level cache between making and writing */
#define TOKENIZER_MOST ((size_t)1 << 28)
#define MEGABYTE       1000000

struct synth_options {
    int kind; /* -1: not given */
    uint64_t layers, experts, vocab, seed;
    bool mtp, force;
    const char *tokenizer;
};

/* --------------------------------------------------------------------------------------- shards */

struct writing {
    const struct synth_plan *plan;
    struct safetensors_writer *writer;
    uint8_t *piece;
    uint64_t done; /* bytes of tensors */
    struct progress progress;
};

static int write_tensor(struct writing *w, const struct synth_tensor *t, struct sonde_error *e) {
    size_t step = synth_piece(t, PIECE_BYTES);
    int rc = SONDE_OK;
    for (uint64_t at = 0; !rc && at < t->bytes; at += step) {
        size_t count = (size_t)min_u64(step, t->bytes - at);
        if (interrupted())
            return err_set(e, SONDE_ERROR_CANCELLED, "interrupted");
        synth_fill(t, at, count, w->piece);
        rc = safetensors_append(w->writer, w->piece, count, e);
        w->done += count;
        progress_step(&w->progress, w->done / MEGABYTE, w->plan->bytes / MEGABYTE);
    }
    return rc;
}

/* Tensors [from, to) of the plan to a file at path. */
static int write_shard(struct writing *w, const char *path, size_t from, size_t to, struct sonde_error *e) {
    struct tensor_spec *specs = calloc(to - from, sizeof(*specs));
    if (!specs)
        return err_memory(e);
    for (size_t i = from; i < to; i++) {
        const struct synth_tensor *t = &w->plan->tensors[i];
        specs[i - from] = (struct tensor_spec){t->name, t->dtype, t->rank, {t->dims[0], t->dims[1]}};
    }
    int rc = safetensors_create(path, specs, to - from, &w->writer, e);
    free(specs);
    if (rc)
        return rc;
    for (size_t i = from; !rc && i < to; i++)
        rc = write_tensor(w, &w->plan->tensors[i], e);
    if (!rc)
        return safetensors_finish(w->writer, e);
    safetensors_cancel(w->writer);
    return rc;
}

/* ---------------------------------------------------------------------------------------- files */

/* What a checkpoint consists of, in the order in which it appears under its name. */
struct files {
    const char *directory;
    char *staging; /* directory/.synth.PID.tmp */
    bool made;     /* directory was not there */
    const struct synth_plan *plan;
    const struct buf *tokenizer; /* empty: none */
    struct buf path, other;      /* scratch */
};

static uint32_t file_count(const struct files *f) {
    return f->plan->shards + 2 + (f->tokenizer->len > 0);
}

/* Path of file i in a directory, into b. */
static int file_path(const struct files *f, const char *directory, uint32_t i, struct buf *b, struct sonde_error *e) {
    static const char *const names[] = {"tokenizer.json", "model.safetensors.index.json", "config.json"};
    struct buf shard = {0};
    if (i < f->plan->shards)
        synth_shard_name(&shard, i, f->plan->shards);
    bool failed = shard.failed;
    if (!failed)
        file_join(b, directory, shard.data ? shard.data : names[COUNT_OF(names) + i - file_count(f)]);
    buf_release(&shard);
    return failed || b->failed ? err_memory(e) : SONDE_OK;
}

static int write_shards(struct files *f, struct sonde_error *e) {
    const struct synth_plan *p = f->plan;
    struct writing w = {.plan = p, .piece = malloc(PIECE_BYTES)};
    int rc = w.piece ? SONDE_OK : err_memory(e);
    progress_init(&w.progress, "megabyte");
    for (size_t from = 0, to; !rc && from < p->count; from = to) {
        uint32_t shard = p->tensors[from].shard;
        for (to = from; to < p->count && p->tensors[to].shard == shard;)
            to++;
        rc = file_path(f, f->staging, shard, &f->path, e);
        if (!rc)
            rc = write_shard(&w, f->path.data, from, to, e);
    }
    progress_end(&w.progress);
    free(w.piece);
    return rc;
}

static int write_files(struct files *f, struct sonde_error *e) {
    const struct {
        const char *data;
        size_t bytes;
    } texts[] = {
        {f->tokenizer->data, f->tokenizer->len},
        {f->plan->index, strlen(f->plan->index)},
        {f->plan->config, strlen(f->plan->config)},
    };
    uint32_t count = file_count(f);
    int rc = write_shards(f, e);
    for (uint32_t i = f->plan->shards; !rc && i < count; i++) {
        size_t k = COUNT_OF(texts) + i - count;
        rc = file_path(f, f->staging, i, &f->path, e);
        if (!rc)
            rc = file_write(f->path.data, texts[k].data, texts[k].bytes, e);
    }
    return rc;
}

static void remove_files(struct files *f, const char *directory) {
    for (uint32_t i = file_count(f); i-- > 0;)
        if (file_path(f, directory, i, &f->path, NULL) == SONDE_OK)
            unlink(f->path.data);
}

/* ------------------------------------------------------------------------------------ directory */

/* Calls `found` for each entry but . and .. until it returns true. Returns that, or -1 with errno. */
static int each_entry(const char *directory, bool (*found)(struct files *f, const char *name), struct files *f) {
    DIR *d = opendir(directory);
    if (!d)
        return -1;
    struct dirent *entry;
    bool stop = false;
    while (!stop && (entry = readdir(d)))
        stop = strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && found(f, entry->d_name);
    closedir(d);
    return stop;
}

static bool is_entry(struct files *f, const char *name) {
    (void)f;
    (void)name;
    return true;
}

static bool remove_shard(struct files *f, const char *name) {
    if (fnmatch("model-[0-9]*-of-[0-9]*.safetensors", name, 0) == 0) {
        file_join(&f->path, f->directory, name);
        if (!f->path.failed)
            unlink(f->path.data);
    }
    return false;
}

static int check_room(const struct files *f, struct sonde_error *e) {
    struct statvfs fs;
    if (statvfs(f->directory, &fs) < 0)
        return err_system(e, "%s", f->directory);
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (room >= f->plan->bytes)
        return SONDE_OK;
    return err_set(e, SONDE_ERROR_IO, "%s: %.1f GB are needed, %.1f GB are free", f->directory,
                   (double)f->plan->bytes / 1e9, (double)room / 1e9);
}

/* Makes the directory, or sees that it is empty or may be replaced; then the staging directory in it. */
static int open_directory(struct files *f, bool force, struct sonde_error *e) {
    struct buf staging = {0}, name = {0};
    f->made = mkdir(f->directory, 0777) == 0;
    if (!f->made && errno != EEXIST)
        return err_system(e, "%s: cannot be made", f->directory);
    int entries = each_entry(f->directory, is_entry, f);
    if (entries < 0)
        return err_system(e, "%s", f->directory);
    if (entries && !force)
        return err_set(e, SONDE_ERROR_IO, "%s: is not empty; --force replaces the checkpoint in it", f->directory);
    int rc = check_room(f, e);
    if (rc)
        return rc;
    buf_printf(&name, ".synth.%ld.tmp", (long)getpid());
    if (!name.failed)
        file_join(&staging, f->directory, name.data);
    rc = name.failed || staging.failed ? err_memory(e) : SONDE_OK;
    if (!rc && mkdir(staging.data, 0777) < 0)
        rc = err_system(e, "%s: cannot be made", staging.data);
    if (!rc)
        rc = buf_take(&staging, &f->staging, NULL, e);
    buf_release(&staging);
    buf_release(&name);
    return rc;
}

/* Moves the files to their names; those of an older checkpoint go first. */
static int publish(struct files *f, struct sonde_error *e) {
    uint32_t count = file_count(f);
    int rc = SONDE_OK;
    for (uint32_t i = count - 1; !rc && i >= f->plan->shards; i--) {
        rc = file_path(f, f->directory, i, &f->path, e);
        if (!rc && unlink(f->path.data) < 0 && errno != ENOENT)
            rc = err_system(e, "%s: cannot be replaced", f->path.data);
    }
    if (rc)
        return rc;
    each_entry(f->directory, remove_shard, f);
    for (uint32_t i = 0; i < count && !rc; i++) {
        rc = file_path(f, f->staging, i, &f->path, e);
        if (!rc)
            rc = file_path(f, f->directory, i, &f->other, e);
        if (!rc && rename(f->path.data, f->other.data) < 0)
            rc = err_system(e, "%s: cannot be written", f->other.data);
    }
    if (rc)
        remove_files(f, f->directory);
    return rc;
}

static int write_checkpoint(const struct synth_plan *plan, const char *directory, const struct buf *tokenizer,
                            bool force, struct sonde_error *e) {
    struct files f = {.directory = directory, .plan = plan, .tokenizer = tokenizer};
    int rc = open_directory(&f, force, e);
    if (!rc)
        rc = write_files(&f, e);
    if (!rc)
        rc = publish(&f, e);
    if (rc && f.staging)
        remove_files(&f, f.staging);
    if (f.staging)
        rmdir(f.staging);
    if (rc && f.made)
        rmdir(directory);
    free(f.staging);
    buf_release(&f.path);
    buf_release(&f.other);
    return rc;
}

/* -------------------------------------------------------------------------------------- command */

static int synth(int argc, char **argv) {
    struct synth_options o = {.kind = -1};
    struct synth_plan plan = {0};
    struct buf tokenizer = {0};
    struct sonde_error e;
    const char *operands[1];
    int status = flags_parse(&command_synth, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    if (o.kind < 0)
        return usage_error("synth", "--shape is missing: " SYNTH_KINDS);
    if (o.experts && o.experts < synth_least_experts(o.kind))
        return usage_error("synth", "--experts takes at least %u for this shape, as many as a token is sent to",
                           synth_least_experts(o.kind));
    struct synth_request request = {.kind = o.kind,
                                    .layers = (uint32_t)o.layers,
                                    .experts = (uint32_t)o.experts,
                                    .vocab = (uint32_t)o.vocab,
                                    .mtp = o.mtp,
                                    .seed = o.seed};
    int rc = o.tokenizer ? file_read_input(o.tokenizer, TOKENIZER_MOST, &tokenizer, &e) : SONDE_OK;
    if (!rc && o.tokenizer && !tokenizer.len)
        rc = err_set(&e, SONDE_ERROR_FORMAT, "%s: is empty", o.tokenizer);
    if (!rc)
        rc = synth_plan_init(&plan, &request, &e);
    if (!rc) {
        interrupt_arm_all();
        rc = write_checkpoint(&plan, operands[0], &tokenizer, o.force, &e);
        interrupt_disarm();
    }
    status = STATUS_DONE;
    if (rc)
        status = interrupted() ? interrupt_status() : report(&e);
    synth_plan_release(&plan);
    buf_release(&tokenizer);
    return status;
}

/* clang-format off */
static const struct flag flags[] = {
    {.name = "shape", .kind = FLAG_CHOICE, .at = offsetof(struct synth_options, kind), .value = SYNTH_KINDS,
     .help = "whose widths; tiny: a few megabytes, for tests"},
    {.name = "layers", .kind = FLAG_COUNT, .at = offsetof(struct synth_options, layers), .value = "N", .least = 1,
     .most = 4096, .help = "without multi-token prediction (default: the shape's)"},
    {.name = "experts", .kind = FLAG_COUNT, .at = offsetof(struct synth_options, experts), .value = "N", .least = 1,
     .most = 32768, .help = "routed ones a layer (default: the shape's)"},
    {.name = "vocab", .kind = FLAG_COUNT, .at = offsetof(struct synth_options, vocab), .value = "N", .least = 2,
     .most = 1 << 24, .help = "tokens in the vocabulary (default: the shape's)"},
    {.name = "mtp", .kind = FLAG_SWITCH, .at = offsetof(struct synth_options, mtp),
     .help = "with the block of multi-token prediction"},
    {.name = "seed", .kind = FLAG_COUNT, .at = offsetof(struct synth_options, seed), .value = "S",
     .most = UINT64_MAX, .help = "same seed, same bytes (default 0)"},
    {.name = "tokenizer", .kind = FLAG_STRING, .at = offsetof(struct synth_options, tokenizer), .value = "FILE",
     .help = "copied to OUT/tokenizer.json"},
    {.name = "force", .kind = FLAG_SWITCH, .at = offsetof(struct synth_options, force),
     .help = "replace the checkpoint in a directory that is not empty"},
};
/* clang-format on */

const struct command command_synth = {
    .name = "synth",
    .operands = "OUT",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "a random checkpoint with real shapes",
    .about = "Writes a directory in the official layout with the widths, names and dtypes of V4-Flash\n"
             "or V4-Pro, any number of layers and experts, and random weights that keep activations\n"
             "in range: for measuring without a download. Three Flash layers are 13 GB. The first N\n"
             "layers of the released pattern are taken; up to three are a window layer, a compressed\n"
             "and indexed one (CSA) and a compressed one (HCA). What fails leaves OUT as it was.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
    .run = synth,
};
