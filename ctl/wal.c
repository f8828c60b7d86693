/* wal: what WAL files are, from their page headers; with keys also their clear form. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "ctl/command.h"
#include "ctl/json_out.h"
#include "ctl/keydir_choice.h"
#include "ctl/source.h"
#include "keymgr/keydir.h"
#include "walcrypt/pgfile.h"
#include "walcrypt/wal.h"

#define SHOWN_MAX 8
#define SEGMENT_MAX (1u << 30)

struct wal_options {
	struct common_options common;
	const char *decrypt, *datadir, *keyset, *keydir, *kek;
	bool json;
};

static const struct option_def wal_defs[] = {
    {"decrypt", 0, OPTION_TEXT, offsetof(struct wal_options, decrypt), "OUT",
     "write the clear form of FILE to OUT, or of several into folder OUT", 0, 0},
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct wal_options, datadir), "DIR",
     "decrypt with the keys of that data directory", 0, 0},
    {"keyset", 0, OPTION_TEXT, offsetof(struct wal_options, keyset), "NAME",
     "decrypt with that keyset of the configuration's keystore", 0, 0},
    {"key-dir", 0, OPTION_TEXT, offsetof(struct wal_options, keydir), "DIR", "decrypt with that key directory", 0, 0},
    KEK_OPTION(struct wal_options, "WALCRYPT_KEK"),
    {"json", 0, OPTION_FLAG, offsetof(struct wal_options, json), NULL, "print JSON", 0, 0},
    COMMON_OPTIONS,
    OPTIONS_END};

/* Up to SHOWN_MAX different numbers, in the order in which they came. */
struct numbers {
	uint32_t seen[SHOWN_MAX];
	size_t n;
	bool more;
};

struct wal_facts {
	uint32_t tli, segment_size;
	uint64_t system_identifier;
	uint64_t start, end; /* LSN of the first page and behind the last one that belong here; equal: none */
	uint64_t encrypted, clear, empty, recycled, recycled_clear, invalid;
	struct numbers epochs, generations;
};

static void
numbers_add(struct numbers *n, uint32_t number)
{
	for (size_t i = 0; i < n->n; i++)
		if (n->seen[i] == number)
			return;
	if (n->n < SHOWN_MAX)
		n->seen[n->n++] = number;
	else
		n->more = true;
}

static void
page_note(struct wal_facts *facts, const uint8_t *page, uint64_t offset, uint64_t start)
{
	enum wal_page_kind kind;
	struct wal_header h;

	kind = wal_page_look(page, WAL_PAGE_LEN, &h);
	if (kind == WAL_PAGE_ZERO) {
		facts->empty++;
		return;
	}
	if (kind == WAL_PAGE_INVALID) {
		facts->invalid++;
		return;
	}
	/* what a recycled file still holds from its earlier life */
	if (h.pageaddr != start + offset) {
		facts->recycled++;
		facts->recycled_clear += kind == WAL_PAGE_CLEAR;
		return;
	}
	if (h.len == WAL_LONG_HEADER_LEN && facts->system_identifier == 0) {
		facts->system_identifier = h.system_identifier;
		facts->segment_size = h.segment_size;
	}
	facts->end = h.pageaddr + WAL_PAGE_LEN;
	if (h.tli > facts->tli)
		facts->tli = h.tli;
	if (kind == WAL_PAGE_CLEAR) {
		facts->clear++;
		return;
	}
	facts->encrypted++;
	numbers_add(&facts->epochs, h.epoch7);
	numbers_add(&facts->generations, h.generation);
}

static void
facts_gather(const char *path, const uint8_t *data, size_t len, struct wal_facts *facts)
{
	const char *slash = strrchr(path, '/');
	uint64_t start = 0;
	struct wal_header h;
	struct pgfile is;

	memset(facts, 0, sizeof(*facts));
	pgfile_parse_suffix(slash != NULL ? slash + 1 : path, &is);
	/* by the name, if the file has one; else by its first page */
	if (is.kind == PGFILE_WAL && len > 0) {
		facts->tli = is.tli;
		start = pgfile_wal_segno(&is, (uint32_t)len) * len;
	} else if (len >= WAL_PAGE_LEN && wal_page_look(data, WAL_PAGE_LEN, &h) != WAL_PAGE_INVALID)
		start = h.pageaddr;
	facts->start = facts->end = start;
	for (size_t at = 0; at + WAL_PAGE_LEN <= len; at += WAL_PAGE_LEN)
		page_note(facts, data + at, at, start);
}

static const char *
facts_word(const struct wal_facts *f)
{
	return f->encrypted > 0 && f->clear > 0 ? "partly encrypted"
	       : f->encrypted > 0               ? "encrypted"
	       : f->clear > 0                   ? "clear"
	       : f->recycled > 0                ? "unused"
	                                        : "empty";
}

static void
numbers_print(const char *what, const struct numbers *n, const char *fmt)
{
	if (n->n == 0)
		return;
	printf(", %s%s", what, n->n > 1 ? "s" : "");
	for (size_t i = 0; i < n->n; i++) {
		printf(" ");
		printf(fmt, n->seen[i]);
	}
	if (n->more)
		printf(" ...");
}

static void
facts_print(const char *path, const struct wal_facts *f)
{
	char start[LSN_TEXT_LEN], end[LSN_TEXT_LEN];

	lsn_format(start, f->start);
	lsn_format(end, f->end);
	printf("%s: %s, timeline %u", path, facts_word(f), f->tli);
	if (f->end > f->start)
		printf(", %s to %s", start, end);
	if (f->encrypted > 0)
		printf(", %" PRIu64 " pages encrypted", f->encrypted);
	numbers_print("epoch", &f->epochs, "%u");
	numbers_print("generation", &f->generations, "%08x");
	if (f->clear > 0)
		printf(", %" PRIu64 " pages clear", f->clear);
	if (f->empty > 0)
		printf(", %" PRIu64 " empty", f->empty);
	if (f->recycled > 0)
		printf(", %" PRIu64 " left over from a recycled file", f->recycled);
	if (f->recycled_clear > 0)
		printf(" (%" PRIu64 " of them clear)", f->recycled_clear);
	if (f->invalid > 0)
		printf(", %" PRIu64 " without a valid header", f->invalid);
	printf("\n");
}

static json_t *
numbers_json(const struct numbers *n, const char *fmt)
{
	json_t *list = json_array();

	for (size_t i = 0; i < n->n; i++)
		json_array_append_new(list, json_sprintf(fmt, n->seen[i]));
	return list;
}

static json_t *
facts_json(const char *path, const struct wal_facts *f)
{
	char start[LSN_TEXT_LEN], end[LSN_TEXT_LEN], identifier[24];

	lsn_format(start, f->start);
	lsn_format(end, f->end);
	snprintf(identifier, sizeof(identifier), "%" PRIu64, f->system_identifier);
	return json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:b}", "file", path,
	                 "state", facts_word(f), "timeline", (json_int_t)f->tli, "start", start, "end", end,
	                 "system_identifier", identifier, "encrypted_pages", (json_int_t)f->encrypted, "clear_pages",
	                 (json_int_t)f->clear, "empty_pages", (json_int_t)f->empty, "recycled_pages",
	                 (json_int_t)f->recycled, "recycled_clear_pages", (json_int_t)f->recycled_clear, "invalid_pages",
	                 (json_int_t)f->invalid, "epochs", numbers_json(&f->epochs, "%u"), "generations",
	                 numbers_json(&f->generations, "%08x"), "more_generations", f->generations.more);
}

/* The keys, when --decrypt asks for them. */
static int
keys_open(const struct wal_options *o, struct keyset **keys, struct err *err)
{
	struct keydir_choice choice = {o->keyset, o->datadir, o->keydir, o->common.config};
	char keydir[PATH_MAX];
	struct source source;

	if (keydir_named(&choice, keydir, err) != 0 ||
	    source_find(&source, o->common.config, o->kek, o->datadir, o->keyset, err) != 0)
		return -1;
	*keys = source_open(&source, keydir, err);
	source_free(&source);
	return *keys != NULL ? 0 : -1;
}

/* The clear form of data, in place, into a new file that only we may read. */
static int
file_decrypt(const struct wal_options *o, const char *path, struct wal_cipher *cipher, uint8_t *data, size_t len,
             bool several, struct err *err)
{
	const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
	char out[PATH_MAX];
	struct stat st;

	if (len % WAL_PAGE_LEN != 0)
		return err_set(err, ERR_DAMAGED, "\"%s\" has no whole number of WAL pages", path);
	for (size_t at = 0; at < len; at += WAL_PAGE_LEN)
		if (wal_page_decrypt(cipher, data + at, data + at, err) != 0)
			return err_context(err, "\"%s\"", path);
	if (several || (stat(o->decrypt, &st) == 0 && S_ISDIR(st.st_mode))) {
		if (path_format(out, err, "%s/%s", o->decrypt, base) != 0)
			return -1;
	} else if (path_format(out, err, "%s", o->decrypt) != 0)
		return -1;
	if (durable_create(out, data, len, 0600, err) == 0)
		return 0;
	if (err->os_errno == EEXIST)
		err_set(err, ERR_REFUSED, "\"%s\" exists already", out);
	return -1;
}

/* What lies in pg_wal and is no WAL: never encrypted, so there is nothing to tell but that. NULL: something else. */
static const char *
bystander(const char *path)
{
	const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
	size_t hex = strspn(name, "0123456789ABCDEF");

	if (hex == 8 && strcmp(name + hex, ".history") == 0)
		return "timeline history";
	if (hex == 24 && strlen(name) > hex + 7 && strcmp(name + strlen(name) - 7, ".backup") == 0)
		return "backup history";
	return NULL;
}

/* 1: something about the file was said; 0: it may be WAL; -1: it cannot be. */
static int
bystander_tell(const struct wal_options *o, const char *path, bool several, json_t *list, struct err *err)
{
	const char *what = bystander(path);
	struct stat st;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
		if (!several) {
			err_set(err, ERR_USAGE, "\"%s\" is a folder", path);
			return err_hint(err, "Name its files: walcrypt-ctl wal %.200s/*", path);
		}
		what = "folder";
	}
	if (what == NULL)
		return 0;
	if (o->json)
		json_array_append_new(list, json_pack("{s:s, s:s}", "file", path, "state", what));
	else if (strcmp(what, "folder") == 0)
		printf("%s: a folder, not looked into\n", path);
	else
		printf("%s: %s, plain text; it is never encrypted\n", path, what);
	return 1;
}

static int
wal_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct wal_options *o = options;
	struct wal_cipher *cipher = NULL;
	struct keyset *keys = NULL;
	json_t *list = json_array();
	uint8_t *data = NULL;
	struct wal_facts facts;
	size_t len;
	int result = -1;

	if (o->decrypt != NULL && (keys_open(o, &keys, err) != 0 || (cipher = wal_cipher_new(keys, err)) == NULL))
		goto done;
	for (size_t i = 0; i < nargs; i++) {
		int told = bystander_tell(o, args[i], nargs > 1, list, err);

		if (told < 0)
			goto done;
		if (told > 0)
			continue;
		if ((data = durable_read(args[i], SEGMENT_MAX, &len, err)) == NULL)
			goto done;
		facts_gather(args[i], data, len, &facts);
		if (len < WAL_PAGE_LEN || facts.invalid * WAL_PAGE_LEN + WAL_PAGE_LEN > len) {
			err_set(err, ERR_DAMAGED, "\"%s\" is no WAL file", args[i]);
			goto done;
		}
		if (o->json)
			json_array_append_new(list, facts_json(args[i], &facts));
		else
			facts_print(args[i], &facts);
		if (cipher != NULL && file_decrypt(o, args[i], cipher, data, len, nargs > 1, err) != 0)
			goto done;
		free(data);
		data = NULL;
	}
	result = o->json ? json_out(list, err) : 0;
done:
	free(data);
	json_decref(list);
	wal_cipher_free(cipher);
	keyset_free(keys);
	return result;
}

const struct command command_wal = {
    .name = "wal",
    .arguments = "FILE... [--decrypt OUT -D DIR | --keyset NAME | --key-dir DIR] [--json]",
    .summary = "show what WAL files are: timeline, positions, pages, epochs, generations",
    .more = "Without --decrypt no key is needed. What --decrypt writes is clear WAL: mind where it goes.",
    .options = wal_defs,
    .style = OPTIONS_ALL,
    .min_args = 1,
    .max_args = 1000,
    .run = wal_run,
};
_Static_assert(sizeof(struct wal_options) <= COMMAND_OPTIONS_MAX, "options fit");
