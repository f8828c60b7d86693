#include "keymgr/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "keymgr/ledger_intern.h"
#include "walcrypt/digest.h"
#include "walcrypt/random.h"

#define MAGIC "WCLEDGR3" /* the last byte is the format's number */
#define MAGIC_NAME_LEN 7
#define HEADER_LEN 4096
#define MAX_LINES 1024
#define FILE_LEN (HEADER_LEN + MAX_LINES * LEDGER_LINE_LEN)

static uint32_t
slot_crc(const struct ledger_slot *s)
{
	return crc32c(0, s, offsetof(struct ledger_slot, crc));
}

static uint32_t
line_crc(const struct ledger_record *at)
{
	return crc32c(0, at, offsetof(struct ledger_record, crc));
}

static struct ledger_record *
line_at(struct ledger *l, size_t i)
{
	return (struct ledger_record *)(void *)(l->map + HEADER_LEN + i * LEDGER_LINE_LEN);
}

static bool
line_used(const struct ledger_record *at)
{
	return at->tli != 0 && at->crc == line_crc(at);
}

struct ledger_slot *
ledger_record_slot(struct ledger_record *at)
{
	bool ok[2];

	for (int i = 0; i < 2; i++)
		ok[i] = at->slot[i].sequence != 0 && at->slot[i].crc == slot_crc(&at->slot[i]);
	if (ok[0] && ok[1])
		return &at->slot[at->slot[1].sequence > at->slot[0].sequence];
	return ok[0] ? &at->slot[0] : ok[1] ? &at->slot[1] : NULL;
}

void
ledger_record_put(struct ledger_record *at, const struct ledger_slot *next)
{
	struct ledger_slot *now = ledger_record_slot(at), new = *next;

	new.sequence = now == NULL ? 1 : now->sequence + 1;
	new.crc = slot_crc(&new);
	at->slot[now == &at->slot[0]] = new;
}

int
ledger_sync(struct ledger *l, struct err *err)
{
	if (msync(l->map, FILE_LEN, MS_SYNC) != 0 || fsync(l->fd) != 0)
		return err_os(err, errno, "could not write ledger \"%s\"", l->path);
	return 0;
}

static int
boot_id_read(char id[static LEDGER_BOOT_ID_LEN], struct err *err)
{
	static const char path[] = "/proc/sys/kernel/random/boot_id";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = -1;

	if (fd >= 0) {
		n = read(fd, id, LEDGER_BOOT_ID_LEN);
		close(fd);
	}
	if (n != LEDGER_BOOT_ID_LEN) {
		err_os(err, fd < 0 ? errno : EIO, "could not read \"%s\"", path);
		return err_hint(err, "The ledger needs it to notice a crash of the operating system; mount /proc.");
	}
	return 0;
}

/* A new file gets its blocks now: a full disk must be an error here, not a SIGBUS at a store. */
static int
file_prepare(struct ledger *l, struct err *err)
{
	char header[HEADER_LEN] = MAGIC;
	struct stat st;
	ssize_t n;
	int rc;

	if (fstat(l->fd, &st) != 0)
		return err_os(err, errno, "could not look at ledger \"%s\"", l->path);
	if (st.st_size != 0) {
		n = pread(l->fd, header, sizeof(MAGIC) - 1, 0);
		if (n == sizeof(MAGIC) - 1 && memcmp(header, MAGIC, MAGIC_NAME_LEN) == 0 &&
		    header[MAGIC_NAME_LEN] > MAGIC[MAGIC_NAME_LEN] && header[MAGIC_NAME_LEN] <= '9') {
			err_later(err, header[MAGIC_NAME_LEN] - '0', MAGIC[MAGIC_NAME_LEN] - '0', "\"%s\"", l->path);
			return err_hint(err,
			                "A later version of walcrypt wrote it: use that one. Or move the file away: the next start "
			                "makes a new one, and every stream a new incarnation.");
		}
		if (st.st_size != FILE_LEN || n != sizeof(MAGIC) - 1 || memcmp(header, MAGIC, sizeof(MAGIC) - 1) != 0) {
			err_set(err, ERR_DAMAGED, "\"%s\" is not a ledger of this version of walcrypt", l->path);
			return err_hint(err,
			                "Move the file away: the next start makes a new one, and every stream a new incarnation.");
		}
		return 0;
	}
	if ((rc = posix_fallocate(l->fd, 0, FILE_LEN)) != 0) {
		/* leave nothing that the next start takes for a damaged ledger */
		if (ftruncate(l->fd, 0) != 0)
			rc = errno;
		return err_os(err, rc, "could not make ledger \"%s\"", l->path);
	}
	if (pwrite(l->fd, header, HEADER_LEN, 0) != HEADER_LEN || fsync(l->fd) != 0)
		return err_os(err, errno, "could not write ledger \"%s\"", l->path);
	return 0;
}

static int
folder_sync(const char *path, struct err *err)
{
	char folder[512];
	const char *slash = strrchr(path, '/');
	int fd, rc;

	snprintf(folder, sizeof(folder), "%.*s",
	         slash == NULL   ? 1
	         : slash == path ? 1
	                         : (int)(slash - path),
	         slash == NULL ? "." : path);
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rc = fd < 0 ? -1 : fsync(fd);
	if (rc != 0)
		err_os(err, errno, "could not make \"%s\" durable", folder);
	if (fd >= 0)
		close(fd);
	return rc;
}

struct ledger *
ledger_open(const char *path, struct err *err)
{
	struct ledger *l = calloc(1, sizeof(*l));

	if (l == NULL) {
		err_nomem(err);
		return NULL;
	}
	l->fd = -1;
	l->map = MAP_FAILED;
	pthread_mutex_init(&l->mutex, NULL);
	if (strlen(path) >= sizeof(l->path)) {
		err_set(err, ERR_USAGE, "the ledger's path is too long: \"%s\"", path);
		goto fail;
	}
	memcpy(l->path, path, strlen(path) + 1);
	if (boot_id_read(l->boot_id, err) != 0)
		goto fail;
	if ((l->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0) {
		err_os(err, errno, "could not open ledger \"%s\"", path);
		goto fail;
	}
	if (flock(l->fd, LOCK_EX | LOCK_NB) != 0) {
		if (errno == EWOULDBLOCK) {
			err_set(err, ERR_REFUSED, "ledger \"%s\" is in use by another process", path);
			err_hint(err, "One proxy runs per keystore; a second one needs a ledger of its own (setting \"ledger\").");
		} else
			err_os(err, errno, "could not lock ledger \"%s\"", path);
		goto fail;
	}
	if (file_prepare(l, err) != 0 || folder_sync(path, err) != 0)
		goto fail;
	l->map = mmap(NULL, FILE_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, 0);
	if (l->map == MAP_FAILED) {
		err_os(err, errno, "could not map ledger \"%s\"", path);
		goto fail;
	}
	return l;
fail:
	if (l->fd >= 0)
		close(l->fd);
	pthread_mutex_destroy(&l->mutex);
	free(l);
	return NULL;
}

int
ledger_close(struct ledger *l, struct err *err)
{
	int rc;

	if (l == NULL)
		return 0;
	for (size_t i = 0; i < MAX_LINES; i++) {
		struct ledger_slot *now = line_used(line_at(l, i)) ? ledger_record_slot(line_at(l, i)) : NULL;
		struct ledger_slot next;

		if (now == NULL || now->reserved == now->position)
			continue;
		next = *now;
		next.reserved = next.position;
		ledger_record_put(line_at(l, i), &next);
	}
	rc = ledger_sync(l, err);
	munmap(l->map, FILE_LEN);
	close(l->fd);
	pthread_mutex_destroy(&l->mutex);
	free(l);
	return rc;
}

struct ledger_record *
ledger_record_find(struct ledger *l, const struct ledger_line *line)
{
	for (size_t i = 0; i < MAX_LINES; i++) {
		struct ledger_record *at = line_at(l, i);

		if (line_used(at) && at->system_identifier == line->system_identifier && at->tli == line->tli &&
		    memcmp(at->history_sha256, line->history_sha256, sizeof(at->history_sha256)) == 0 &&
		    memcmp(at->key_id, line->key_id, KEY_ID_LEN) == 0)
			return at;
	}
	return NULL;
}

/* A new incarnation in the slots of at, durable. Mutex held. */
static int
line_renew(struct ledger *l, struct ledger_record *at, struct ledger_slot *out, struct err *err)
{
	struct ledger_slot next = {0};

	if (random_bytes((uint8_t *)&next.incarnation, sizeof(next.incarnation), err) != 0)
		return -1;
	memcpy(next.boot_id, l->boot_id, LEDGER_BOOT_ID_LEN);
	ledger_record_put(at, &next);
	*out = next;
	return ledger_sync(l, err);
}

static int
line_make(struct ledger *l, const struct ledger_line *line, struct ledger_record **out, struct ledger_slot *slot,
          struct err *err)
{
	for (size_t i = 0; i < MAX_LINES; i++) {
		struct ledger_record *at = line_at(l, i);

		if (line_used(at))
			continue;
		memset(at, 0, sizeof(*at));
		at->system_identifier = line->system_identifier;
		at->tli = line->tli;
		memcpy(at->history_sha256, line->history_sha256, sizeof(at->history_sha256));
		memcpy(at->key_id, line->key_id, KEY_ID_LEN);
		/* the slot first: a line that is found always has one that was durable */
		if (line_renew(l, at, slot, err) != 0)
			return -1;
		at->crc = line_crc(at);
		*out = at;
		return ledger_sync(l, err);
	}
	err_set(err, ERR_FAILED, "ledger \"%s\" is full: it knows %d timelines", l->path, MAX_LINES);
	return err_hint(
	    err,
	    "Stop the proxy and move the file away: the next start makes a new one, and every stream a new incarnation.");
}

static void
place_fill(struct ledger_place *place, const struct ledger_slot *s)
{
	place->incarnation = s->incarnation;
	place->position = s->position;
	memcpy(place->mac, s->mac, sizeof(place->mac));
	place->has_before = s->has_before != 0;
	memcpy(place->mac_before, s->mac_before, sizeof(place->mac_before));
}

int
ledger_find(struct ledger *l, const struct ledger_line *line, struct ledger_place *place, const char **why,
            struct err *err)
{
	struct ledger_record *at;
	struct ledger_slot *now, slot;
	int rc = 0;

	*why = NULL;
	pthread_mutex_lock(&l->mutex);
	if ((at = ledger_record_find(l, line)) == NULL) {
		*why = "it is seen for the first time";
		rc = line_make(l, line, &at, &slot, err);
	} else if ((now = ledger_record_slot(at)) == NULL) {
		*why = "its line in the ledger is damaged";
		rc = line_renew(l, at, &slot, err);
	} else if (now->reserved != now->position && memcmp(now->boot_id, l->boot_id, LEDGER_BOOT_ID_LEN) != 0) {
		*why = "the operating system went down while it was streamed";
		rc = line_renew(l, at, &slot, err);
	} else
		slot = *now;
	if (rc == 0)
		place_fill(place, &slot);
	pthread_mutex_unlock(&l->mutex);
	return rc;
}

int
ledger_renew(struct ledger *l, const struct ledger_line *line, uint64_t old_incarnation, struct ledger_place *place,
             struct err *err)
{
	struct ledger_record *at;
	struct ledger_slot *now, slot;
	int rc = 0;

	pthread_mutex_lock(&l->mutex);
	if ((at = ledger_record_find(l, line)) == NULL)
		rc = line_make(l, line, &at, &slot, err);
	else if ((now = ledger_record_slot(at)) == NULL || now->incarnation == old_incarnation)
		rc = line_renew(l, at, &slot, err);
	else
		slot = *now;
	if (rc == 0)
		place_fill(place, &slot);
	pthread_mutex_unlock(&l->mutex);
	return rc;
}
