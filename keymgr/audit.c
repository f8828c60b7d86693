#include "keymgr/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/fileio.h"
#include "common/path.h"
#include "common/username.h"
#include "keymgr/provider_scheme.h"
#include "walcrypt/digest.h"

#define LINE_MAX_LEN 8192
#define WORD_MAX 512
#define WORDS_MAX 10
#define ROOM 16384 /* kept free for the record of the end */
static const char first_hash[AUDIT_HASH_LEN] = "0000000000000000000000000000000000000000000000000000000000000000";

static int
hash(const char *line, size_t len, char hex[static AUDIT_HASH_LEN], struct err *err)
{
	struct digest *d = digest_new(DIGEST_SHA256, err);
	uint8_t out[DIGEST_MAX_LEN];
	int rc =
	    d != NULL && digest_update(d, (const uint8_t *)line, len, err) == 0 && digest_final(d, out, err) == 32 ? 0 : -1;

	for (int i = 0; rc == 0 && i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", out[i]);
	digest_free(d);
	return rc;
}

static int
unwritable(const char *path, const char *what, int os_errno, struct err *err)
{
	err_os(err, os_errno, "could not %s audit log \"%s\"", what, path);
	err->class = ERR_REFUSED;
	return err_hint(err, "Nothing was changed: no key operation goes on without its record.");
}

/* Open, locked; made first if it is not there, for the owner of its folder. */
static int
log_open(const char *path, struct err *err)
{
	int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	char folder[PATH_MAX];
	struct stat st, above;

	if (fd < 0)
		return unwritable(path, "open", errno, err);
	if (flock(fd, LOCK_EX) != 0 || fstat(fd, &st) != 0 || path_format(folder, err, "%s", path) != 0) {
		unwritable(path, "lock", errno, err);
		goto fail;
	}
	if ((st.st_mode & 077) != 0 || !S_ISREG(st.st_mode)) {
		err_set(err, ERR_REFUSED, "audit log \"%s\" can be read or written by others", path);
		err_hint(err, "chmod 0600 %.200s", path);
		goto fail;
	}
	/* root works for whoever owns the keystore */
	if (geteuid() == 0 && st.st_uid == 0 && stat(dirname(folder), &above) == 0 && above.st_uid != 0 &&
	    fchown(fd, above.st_uid, above.st_gid) != 0) {
		unwritable(path, "hand over", errno, err);
		goto fail;
	}
	return fd;
fail:
	close(fd);
	return -1;
}

/* Number and hash of the last record; a line that a power cut tore is taken away. */
static int
tail_read(int fd, const char *path, uint64_t *number, char last[static AUDIT_HASH_LEN], struct err *err)
{
	char *text = malloc(LINE_MAX_LEN + 1), *line, *end;
	json_t *record = NULL, *n;
	struct stat st;
	off_t from;
	ssize_t len;
	int result = -1;

	*number = 0;
	memcpy(last, first_hash, AUDIT_HASH_LEN);
	if (text == NULL || fstat(fd, &st) != 0) {
		free(text);
		return text == NULL ? err_nomem(err) : unwritable(path, "read", errno, err);
	}
	from = st.st_size > LINE_MAX_LEN ? st.st_size - LINE_MAX_LEN : 0;
	if ((len = fileio_pread(fd, text, (size_t)(st.st_size - from), (uint64_t)from)) < 0) {
		unwritable(path, "read", errno, err);
		goto done;
	}
	for (end = text + len; end > text && end[-1] != '\n'; end--)
		;
	if (end != text + len && ftruncate(fd, from + (end - text)) != 0) {
		unwritable(path, "cut a torn line from", errno, err);
		goto done;
	}
	if (end == text) {
		if (from > 0)
			err_set(err, ERR_DAMAGED, "the last line of audit log \"%s\" is too long", path);
		else
			result = 0;
		goto done;
	}
	for (line = --end; line > text && line[-1] != '\n'; line--)
		;
	record = json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES, NULL);
	n = json_object_get(record, "record");
	if (!json_is_integer(n) || json_integer_value(n) < 1) {
		err_set(err, ERR_DAMAGED, "the last line of audit log \"%s\" is no record", path);
		err_hint(err, "walcrypt-ctl key audit tells more. To begin a new log, move this one away.");
		goto done;
	}
	*number = (uint64_t)json_integer_value(n);
	result = hash(line, (size_t)(end - line), last, err);
done:
	json_decref(record);
	free(text);
	return result;
}

/* Words fit to be kept: printable, not too long, no key. */
static json_t *
words_json(const char *const *words, size_t n)
{
	json_t *list = json_array();

	for (size_t i = 0; i < n && i < WORDS_MAX; i++) {
		char word[WORD_MAX];
		size_t len = 0;

		for (const char *p = words[i]; *p != '\0' && len + 1 < sizeof(word); p++)
			word[len++] = *p >= ' ' && *p <= '~' ? *p : '?';
		word[len] = '\0';
		json_array_append_new(list, json_string(provider_holds_key(words[i]) ? "(not shown)" : word));
	}
	return list;
}

static char *
record_text(uint64_t number, const char *action, const char *state, json_t *arguments, uint64_t begun,
            const struct err *error, const char *before, struct err *err)
{
	const char *sudo = getenv("SUDO_USER");
	char user[USERNAME_LEN];
	char stamp[32], *text;
	time_t now = time(NULL);
	struct tm tm;
	json_t *root;

	username(getuid(), user);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
	root = json_pack("{s:I, s:s, s:s, s:I, s:I, s:s, s:s}", "record", (json_int_t)number, "time", stamp, "user",
	                 user[0] != '\0' ? user : "?", "uid", (json_int_t)getuid(), "pid", (json_int_t)getpid(), "action",
	                 action, "state", state);
	if (root != NULL && sudo != NULL && strlen(sudo) < 64)
		json_object_set_new(root, "sudo_user", words_json(&sudo, 1));
	if (root != NULL && arguments != NULL)
		json_object_set(root, "arguments", arguments);
	if (root != NULL && begun != 0)
		json_object_set_new(root, "began", json_integer((json_int_t)begun));
	if (root != NULL && error != NULL) {
		const char *words = error->text;
		json_t *list = words_json(&words, 1);

		json_object_set(root, "error", json_array_get(list, 0));
		json_decref(list);
	}
	if (root != NULL)
		json_object_set_new(root, "before", json_string(before));
	text = root != NULL ? json_dumps(root, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII) : NULL;
	json_decref(root);
	if (text == NULL || strlen(text) + 2 > LINE_MAX_LEN) {
		free(text);
		err_nomem(err);
		return NULL;
	}
	return text;
}

/* One line, durable; *number: the record's. reserve: room for another one is made sure of. */
static int
append(const char *path, const char *action, const char *state, json_t *arguments, uint64_t begun,
       const struct err *error, bool reserve, uint64_t *number, struct err *err)
{
	char before[AUDIT_HASH_LEN], *text = NULL, *line = NULL;
	int fd = log_open(path, err), result = -1;
	uint64_t last;
	off_t end;
	size_t len;

	if (fd < 0)
		return -1;
	if (tail_read(fd, path, &last, before, err) != 0 ||
	    (text = record_text(last + 1, action, state, arguments, begun, error, before, err)) == NULL)
		goto done;
	if (asprintf(&line, "%s\n", text) < 0) {
		line = NULL;
		err_nomem(err);
		goto done;
	}
	len = strlen(line);
	end = lseek(fd, 0, SEEK_END);
	if (reserve && fallocate(fd, FALLOC_FL_KEEP_SIZE, end, ROOM) != 0 && errno != EOPNOTSUPP) {
		unwritable(path, "make room in", errno, err);
		goto done;
	}
	if (write(fd, line, len) != (ssize_t)len || fsync(fd) != 0) {
		unwritable(path, "write", errno, err);
		/* half a line must not stay: the next one would be chained to it */
		if (ftruncate(fd, end) != 0)
			err_hint(err, "Its last line is torn.");
		goto done;
	}
	*number = last + 1;
	result = 0;
done:
	free(line);
	free(text);
	close(fd);
	return result;
}

static int
folder_sync(const char *path, struct err *err)
{
	char folder[PATH_MAX];

	return path_format(folder, err, "%s", path) != 0 ? -1 : durable_fsync_dir(dirname(folder), err);
}

int
audit_begin(struct audit *a, const char *path, const char *action, const char *const *arguments, size_t n,
            struct err *err)
{
	json_t *words = words_json(arguments, n);
	int result = -1;

	snprintf(a->action, sizeof(a->action), "%s", action);
	if (path_format(a->path, err, "%s", path) == 0)
		result = append(path, action, "begun", words, 0, NULL, true, &a->number, err);
	json_decref(words);
	if (result == 0 && a->number == 1)
		result = folder_sync(path, err);
	return result;
}

int
audit_end(struct audit *a, const struct err *error, struct err *err)
{
	uint64_t number;

	if (append(a->path, a->action, error == NULL ? "done" : "failed", NULL, a->number, error, false, &number, err) == 0)
		return 0;
	/* what was to be done is done, or is not: only the record is missing */
	err->class = ERR_FAILED;
	return err_hint(err, "\"%s\" %s; record %" PRIu64 " tells that it began.", a->action,
	                error == NULL ? "is done" : "has failed", a->number);
}

int
audit_note(const char *path, const char *action, const char *const *arguments, size_t n, struct err *err)
{
	json_t *words = words_json(arguments, n);
	uint64_t number;
	int result = append(path, action, "done", words, 0, NULL, false, &number, err);

	json_decref(words);
	return result;
}

/* One line: does it follow the one before? */
static int
record_check(const char *path, const char *line, size_t len, struct audit_facts *facts, struct err *err)
{
	json_t *record = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
	const char *before = json_string_value(json_object_get(record, "before")),
	           *state = json_string_value(json_object_get(record, "state"));
	json_t *n = json_object_get(record, "record");
	int result = -1;

	if (before == NULL || state == NULL || !json_is_integer(n))
		err_set(err, ERR_DAMAGED, "audit log \"%s\": line %" PRIu64 " is no record", path, facts->records + 1);
	else if ((uint64_t)json_integer_value(n) != facts->records + 1 || strcmp(before, facts->last) != 0) {
		err_set(err, ERR_DAMAGED, "audit log \"%s\": line %" PRIu64 " does not follow the line before", path,
		        facts->records + 1);
		err_detail(err, "One of both was changed, or lines were taken out or put in.");
	} else
		result = 0;
	if (result == 0) {
		facts->records++;
		facts->open += strcmp(state, "begun") == 0;
		facts->open -= json_object_get(record, "began") != NULL && facts->open > 0;
	}
	json_decref(record);
	return result == 0 ? hash(line, len, facts->last, err) : -1;
}

int
audit_verify(const char *path, const char *expected, audit_reader *each, void *arg, struct audit_facts *facts,
             struct err *err)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t size = 0;
	ssize_t len;
	int result = 0;

	memset(facts, 0, sizeof(*facts));
	memcpy(facts->last, first_hash, AUDIT_HASH_LEN);
	if (file == NULL)
		return err_os(err, errno, "could not open audit log \"%s\"", path);
	while (result == 0 && (len = getline(&line, &size, file)) > 0) {
		if (line[len - 1] != '\n') {
			result =
			    err_set(err, ERR_DAMAGED, "audit log \"%s\": line %" PRIu64 " is cut off", path, facts->records + 1);
			break;
		}
		if ((result = record_check(path, line, (size_t)len - 1, facts, err)) == 0 && each != NULL)
			each(arg, line, (size_t)len - 1);
		if (result == 0 && expected != NULL && strcmp(facts->last, expected) == 0)
			facts->expected = facts->records;
	}
	free(line);
	fclose(file);
	if (result == 0 && expected != NULL && facts->expected == 0)
		return err_set(err, ERR_DAMAGED, "audit log \"%s\" has no record with the hash that was remembered", path);
	return result;
}
