#include "keymgr/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "walcrypt/digest.h"
#include "walcrypt/random.h"
#include "walcrypt/secmem.h"

#define MAGIC "WCLEDGR1"
#define HEADER_LEN 4096
#define LINE_LEN 512
#define MAX_LINES 1024
#define FILE_LEN (HEADER_LEN + MAX_LINES * LINE_LEN)
#define BOOT_ID_LEN 36
#define COVER_ENOUGH (UINT64_C(1) << 20)

struct slot {
	uint64_t sequence;
	uint64_t incarnation;
	uint64_t position;
	uint64_t reserved;
	uint8_t mac[32], mac_before[32];
	char boot_id[BOOT_ID_LEN];
	uint32_t has_before;
	uint32_t zero;
	uint32_t crc; /* of all before; 0 sequence and 0 crc: never written */
};

/* A line is one sector, so that the operating system writes it whole; two slots, because it may do so at any moment. */
struct line {
	uint64_t system_identifier;
	uint8_t history_sha256[32];
	uint8_t key_id[KEY_ID_LEN];
	uint32_t tli;
	uint32_t crc; /* of all before */
	struct slot slot[2];
	uint8_t unused[LINE_LEN - 56 - 2 * sizeof(struct slot)];
};
_Static_assert(sizeof(struct slot) == 144, "a slot has no padding");
_Static_assert(sizeof(struct line) == LINE_LEN, "a line is one sector");

struct ledger {
	int fd;
	uint8_t *map;
	char boot_id[BOOT_ID_LEN];
	char path[512];
	pthread_mutex_t mutex;
};

struct ledger_trace {
	struct ledger *ledger;
	struct line *at;
	struct ledger_place place;
	uint32_t segment_size;
	struct digest *blank, *running; /* keyed HMAC: with nothing in it; of the present segment */
	uint64_t pos;                   /* one past the last byte pushed; 0: nothing yet */
	bool has_before;                /* the segment before the present one was pushed whole */
	uint8_t before[32];             /* its HMAC */
};

static uint32_t
slot_crc(const struct slot *s)
{
	return crc32c(0, s, offsetof(struct slot, crc));
}

static uint32_t
line_crc(const struct line *at)
{
	return crc32c(0, at, offsetof(struct line, crc));
}

static struct line *
line_at(struct ledger *l, size_t i)
{
	return (struct line *)(void *)(l->map + HEADER_LEN + i * LINE_LEN);
}

static bool
line_used(const struct line *at)
{
	return at->tli != 0 && at->crc == line_crc(at);
}

/* The slot that counts, or NULL when both are damaged or empty. */
static struct slot *
line_slot(struct line *at)
{
	bool ok[2];

	for (int i = 0; i < 2; i++)
		ok[i] = at->slot[i].sequence != 0 && at->slot[i].crc == slot_crc(&at->slot[i]);
	if (ok[0] && ok[1])
		return &at->slot[at->slot[1].sequence > at->slot[0].sequence];
	return ok[0] ? &at->slot[0] : ok[1] ? &at->slot[1] : NULL;
}

/* Write next over the slot that does not count. */
static void
line_put(struct line *at, const struct slot *next)
{
	struct slot *now = line_slot(at), new = *next;

	new.sequence = now == NULL ? 1 : now->sequence + 1;
	new.crc = slot_crc(&new);
	at->slot[now == &at->slot[0]] = new;
}

static int
make_durable(struct ledger *l, struct err *err)
{
	if (msync(l->map, FILE_LEN, MS_SYNC) != 0 || fsync(l->fd) != 0)
		return err_os(err, errno, "could not write ledger \"%s\"", l->path);
	return 0;
}

static int
boot_id_read(char id[static BOOT_ID_LEN], struct err *err)
{
	static const char path[] = "/proc/sys/kernel/random/boot_id";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = -1;

	if (fd >= 0) {
		n = read(fd, id, BOOT_ID_LEN);
		close(fd);
	}
	if (n != BOOT_ID_LEN) {
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
		struct slot *now = line_used(line_at(l, i)) ? line_slot(line_at(l, i)) : NULL;
		struct slot next;

		if (now == NULL || now->reserved == now->position)
			continue;
		next = *now;
		next.reserved = next.position;
		line_put(line_at(l, i), &next);
	}
	rc = make_durable(l, err);
	munmap(l->map, FILE_LEN);
	close(l->fd);
	pthread_mutex_destroy(&l->mutex);
	free(l);
	return rc;
}

/* The line's place in the file, NULL when there is none. Mutex held. */
static struct line *
line_find(struct ledger *l, const struct ledger_line *line)
{
	for (size_t i = 0; i < MAX_LINES; i++) {
		struct line *at = line_at(l, i);

		if (line_used(at) && at->system_identifier == line->system_identifier && at->tli == line->tli &&
		    memcmp(at->history_sha256, line->history_sha256, sizeof(at->history_sha256)) == 0 &&
		    memcmp(at->key_id, line->key_id, KEY_ID_LEN) == 0)
			return at;
	}
	return NULL;
}

/* A new incarnation in the slots of at, durable. Mutex held. */
static int
line_renew(struct ledger *l, struct line *at, struct slot *out, struct err *err)
{
	struct slot next = {0};

	if (random_bytes((uint8_t *)&next.incarnation, sizeof(next.incarnation), err) != 0)
		return -1;
	memcpy(next.boot_id, l->boot_id, BOOT_ID_LEN);
	line_put(at, &next);
	*out = next;
	return make_durable(l, err);
}

static int
line_make(struct ledger *l, const struct ledger_line *line, struct line **out, struct slot *slot, struct err *err)
{
	for (size_t i = 0; i < MAX_LINES; i++) {
		struct line *at = line_at(l, i);

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
		return make_durable(l, err);
	}
	err_set(err, ERR_FAILED, "ledger \"%s\" is full: it knows %d timelines", l->path, MAX_LINES);
	return err_hint(
	    err,
	    "Stop the proxy and move the file away: the next start makes a new one, and every stream a new incarnation.");
}

static void
place_fill(struct ledger_place *place, const struct slot *s)
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
	struct line *at;
	struct slot *now, slot;
	int rc = 0;

	*why = NULL;
	pthread_mutex_lock(&l->mutex);
	if ((at = line_find(l, line)) == NULL) {
		*why = "it is seen for the first time";
		rc = line_make(l, line, &at, &slot, err);
	} else if ((now = line_slot(at)) == NULL) {
		*why = "its line in the ledger is damaged";
		rc = line_renew(l, at, &slot, err);
	} else if (now->reserved != now->position && memcmp(now->boot_id, l->boot_id, BOOT_ID_LEN) != 0) {
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
	struct line *at;
	struct slot *now, slot;
	int rc = 0;

	pthread_mutex_lock(&l->mutex);
	if ((at = line_find(l, line)) == NULL)
		rc = line_make(l, line, &at, &slot, err);
	else if ((now = line_slot(at)) == NULL || now->incarnation == old_incarnation)
		rc = line_renew(l, at, &slot, err);
	else
		slot = *now;
	if (rc == 0)
		place_fill(place, &slot);
	pthread_mutex_unlock(&l->mutex);
	return rc;
}

struct ledger_trace *
ledger_trace_new(struct ledger *l, const struct ledger_line *line, const struct ledger_place *place,
                 const struct data_key *wal_key, uint32_t segment_size, struct err *err)
{
	struct ledger_trace *t = calloc(1, sizeof(*t));
	uint8_t key[32];

	if (t == NULL) {
		err_nomem(err);
		return NULL;
	}
	t->ledger = l;
	t->place = *place;
	t->segment_size = segment_size;
	if (key_derive(wal_key->bytes, (size_t)wal_key->len, "walcrypt ledger v1", key, sizeof(key), err) != 0)
		goto fail;
	t->blank = digest_new_hmac(key, sizeof(key), err);
	secmem_wipe(key, sizeof(key));
	if (t->blank == NULL)
		goto fail;
	pthread_mutex_lock(&l->mutex);
	t->at = line_find(l, line);
	pthread_mutex_unlock(&l->mutex);
	if (t->at == NULL) {
		err_set(err, ERR_FAILED, "timeline %u is not in ledger \"%s\"", line->tli, l->path);
		goto fail;
	}
	return t;
fail:
	ledger_trace_free(t);
	return NULL;
}

void
ledger_trace_free(struct ledger_trace *t)
{
	if (t == NULL)
		return;
	digest_free(t->blank);
	digest_free(t->running);
	free(t);
}

uint64_t
ledger_check_start(const struct ledger_place *place, uint32_t segment_size, bool with_before)
{
	uint64_t start = place->position == 0 ? 0 : (place->position - 1) & ~(uint64_t)(segment_size - 1);

	return with_before && start >= segment_size ? start - segment_size : start;
}

bool
ledger_check_before(const struct ledger_place *place, uint32_t segment_size)
{
	return place->has_before && place->position - ledger_check_start(place, segment_size, false) < COVER_ENOUGH;
}

static int
trace_mac(struct ledger_trace *t, uint8_t mac[static 32], struct err *err)
{
	struct digest *d = digest_copy(t->running, err);
	uint8_t out[DIGEST_MAX_LEN];
	int rc;

	if (d == NULL)
		return -1;
	if ((rc = digest_final(d, out, err)) == 32)
		memcpy(mac, out, 32);
	digest_free(d);
	return rc == 32 ? 0 : -1;
}

/* Take in bytes of one segment: [t->pos, t->pos + len) does not cross a boundary. */
static int
trace_add(struct ledger_trace *t, const uint8_t *data, size_t len, struct err *err)
{
	if (t->pos % t->segment_size == 0) {
		t->has_before = t->running != NULL;
		if (t->running != NULL && trace_mac(t, t->before, err) != 0)
			return -1;
		digest_free(t->running);
		if ((t->running = digest_copy(t->blank, err)) == NULL)
			return -1;
	}
	if (digest_update(t->running, data, len, err) != 0)
		return -1;
	t->pos += len;
	return 0;
}

/* What is known of the segment before the one that t is in: by t itself, or by the line as it stands. */
static void
before_fill(const struct ledger_trace *t, const struct slot *now, struct slot *next)
{
	uint64_t segment = (t->pos - 1) / t->segment_size;

	if (t->has_before) {
		next->has_before = 1;
		memcpy(next->mac_before, t->before, sizeof(next->mac_before));
	} else if (now->position == segment * t->segment_size && now->position != 0) {
		next->has_before = 1;
		memcpy(next->mac_before, now->mac, sizeof(next->mac_before));
	} else if (now->position == 0 || (now->position - 1) / t->segment_size != segment) {
		next->has_before = 0;
		memset(next->mac_before, 0, sizeof(next->mac_before));
	}
}

/* Raise the line to where t is, its plaintext's HMAC being mac. Mutex held. */
static int
line_advance(struct ledger_trace *t, const uint8_t mac[static 32], struct err *err)
{
	struct ledger *l = t->ledger;
	struct slot now = *line_slot(t->at), next = now;

	if (t->pos > next.reserved || memcmp(next.boot_id, l->boot_id, BOOT_ID_LEN) != 0) {
		next.reserved = t->pos + LEDGER_RESERVE;
		memcpy(next.boot_id, l->boot_id, BOOT_ID_LEN);
		line_put(t->at, &next);
		if (make_durable(l, err) != 0)
			return -1;
	}
	next.position = t->pos;
	memcpy(next.mac, mac, sizeof(next.mac));
	before_fill(t, &now, &next);
	line_put(t->at, &next);
	return 0;
}

/* Does the stream go on where it was? Sets the place of the first push. */
static int
trace_join(struct ledger_trace *t, uint64_t pos, struct err *err)
{
	if (t->running == NULL && t->pos == 0 && pos % t->segment_size == 0)
		t->pos = pos;
	if (t->pos != pos)
		return err_set(err, ERR_DAMAGED, "the upstream's WAL does not go on where it was: expected %X/%X, got %X/%X",
		               (unsigned)(t->pos >> 32), (unsigned)t->pos, (unsigned)(pos >> 32), (unsigned)pos);
	return 0;
}

static size_t
least(uint64_t a, uint64_t b)
{
	return (size_t)(a < b ? a : b);
}

int
ledger_trace_check(struct ledger_trace *t, uint64_t pos, const uint8_t *data, size_t len, bool *done, bool *same,
                   struct err *err)
{
	uint8_t mac[32];

	*done = *same = false;
	if (trace_join(t, pos, err) != 0)
		return -1;
	while (len > 0 && t->pos < t->place.position) {
		size_t part = least(least(len, t->segment_size - t->pos % t->segment_size), t->place.position - t->pos);

		if (trace_add(t, data, part, err) != 0)
			return -1;
		data += part;
		len -= part;
	}
	if (t->pos < t->place.position)
		return 0;
	if (trace_mac(t, mac, err) != 0)
		return -1;
	*done = true;
	*same = memcmp(mac, t->place.mac, sizeof(mac)) == 0 &&
	        (!t->has_before || memcmp(t->before, t->place.mac_before, sizeof(t->before)) == 0);
	return 0;
}

/* The line as it stands; ERR_REFUSED when it is not this session's any more. */
static int
trace_look(struct ledger_trace *t, struct slot *now, struct err *err)
{
	struct slot *s;

	pthread_mutex_lock(&t->ledger->mutex);
	if ((s = line_slot(t->at)) != NULL)
		*now = *s;
	pthread_mutex_unlock(&t->ledger->mutex);
	/* another session may be writing the line by now: only the copy is looked at */
	if (s != NULL && now->incarnation == t->place.incarnation)
		return 0;
	err_set(err, ERR_REFUSED, "this timeline's WAL is encrypted under a new incarnation by now");
	return err_hint(err, "The client may connect again.");
}

int
ledger_trace_record(struct ledger_trace *t, uint64_t pos, const uint8_t *data, size_t len, struct err *err)
{
	struct slot now;
	uint8_t mac[32];
	int rc = 0;

	if (trace_join(t, pos, err) != 0 || trace_look(t, &now, err) != 0)
		return -1;
	if (len == 0)
		return 0;
	while (len > 0) {
		size_t part = least(len, t->segment_size - t->pos % t->segment_size);
		bool meet = now.position > t->pos && now.position <= t->pos + part;

		if (meet)
			part = (size_t)(now.position - t->pos);
		if (trace_add(t, data, part, err) != 0)
			return -1;
		data += part;
		len -= part;
		if (!meet)
			continue;
		if (trace_mac(t, mac, err) != 0)
			return -1;
		if (memcmp(mac, now.mac, sizeof(mac)) != 0) {
			err_set(err, ERR_REFUSED, "the upstream's WAL differs from what was sent before it at %X/%X",
			        (unsigned)(t->pos >> 32), (unsigned)t->pos);
			return err_hint(err, "The upstream was rolled back; the client may connect again.");
		}
	}
	if (t->pos <= now.position)
		return 0;
	if (trace_mac(t, mac, err) != 0)
		return -1;
	pthread_mutex_lock(&t->ledger->mutex);
	if (line_slot(t->at)->incarnation != t->place.incarnation)
		rc = err_set(err, ERR_REFUSED, "this timeline's WAL is encrypted under a new incarnation by now");
	else if (line_slot(t->at)->position < t->pos)
		rc = line_advance(t, mac, err);
	pthread_mutex_unlock(&t->ledger->mutex);
	return rc;
}
