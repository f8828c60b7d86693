/* ledger_trace: a session's way along a line of the ledger. */
#include <stdlib.h>
#include <string.h>

#include "keymgr/ledger_intern.h"
#include "walcrypt/digest.h"
#include "walcrypt/nh.h"
#include "walcrypt/secmem.h"

/* So much of a segment is told from another history's without the one before it. */
#define COVER_ENOUGH (UINT64_C(1) << 20)
/* Blocks hashed at a time. */
#define BATCH 32

/* As they are derived. */
struct trace_keys {
	uint8_t gmac[32], hmac[32], nh[NH_KEY_LEN];
};

struct ledger_trace {
	struct ledger *ledger;
	struct ledger_record *at;
	struct ledger_place place;
	uint32_t segment_size;
	uint8_t *nh_key;                /* in secmem */
	struct digest *blank, *running; /* keyed GMAC: with nothing in it; of the present segment's whole blocks */
	struct digest *outer;           /* keyed HMAC, with nothing in it: what makes a value of it fit to be kept */
	uint64_t pos;                   /* one past the last byte pushed; 0: nothing yet */
	uint8_t held[NH_BLOCK];         /* of the segment's last block, pos % NH_BLOCK bytes */
	bool has_before;                /* the segment before the present one was pushed whole */
	uint8_t before[32];             /* its MAC */
};

static int
trace_key(struct ledger_trace *t, const struct data_key *wal_key, struct err *err)
{
	struct trace_keys keys;
	int rc =
	    key_derive(wal_key->bytes, (size_t)wal_key->len, "walcrypt ledger v3", (uint8_t *)&keys, sizeof(keys), err);

	if (rc == 0 &&
	    ((t->nh_key = secmem_alloc(NH_KEY_LEN, err)) == NULL || (t->blank = digest_new_gmac(keys.gmac, err)) == NULL ||
	     (t->outer = digest_new_hmac(keys.hmac, sizeof(keys.hmac), err)) == NULL))
		rc = -1;
	if (rc == 0)
		memcpy(t->nh_key, keys.nh, NH_KEY_LEN);
	secmem_wipe(&keys, sizeof(keys));
	return rc;
}

struct ledger_trace *
ledger_trace_new(struct ledger *l, const struct ledger_line *line, const struct ledger_place *place,
                 const struct data_key *wal_key, uint32_t segment_size, struct err *err)
{
	struct ledger_trace *t = calloc(1, sizeof(*t));

	if (t == NULL) {
		err_nomem(err);
		return NULL;
	}
	t->ledger = l;
	t->place = *place;
	t->segment_size = segment_size;
	if (trace_key(t, wal_key, err) != 0)
		goto fail;
	pthread_mutex_lock(&l->mutex);
	t->at = ledger_record_find(l, line);
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
	digest_free(t->outer);
	secmem_free(t->nh_key);
	secmem_wipe(t, sizeof(*t));
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

/* The value of a copy of d after data. */
static int
value_of(const struct digest *d, const void *data, size_t len, uint8_t *out, int out_len, struct err *err)
{
	struct digest *copy = digest_copy(d, err);
	uint8_t value[DIGEST_MAX_LEN];
	int rc = -1;

	if (copy != NULL && digest_update(copy, data, len, err) == 0 && (rc = digest_final(copy, value, err)) == out_len)
		memcpy(out, value, (size_t)out_len);
	digest_free(copy);
	secmem_wipe(value, sizeof(value));
	return rc == out_len ? 0 : -1;
}

static int
trace_mac(struct ledger_trace *t, uint8_t mac[static 32], struct err *err)
{
	uint8_t inner[16];
	int rc = value_of(t->running, t->held, t->pos % NH_BLOCK, inner, sizeof(inner), err);

	if (rc == 0)
		rc = value_of(t->outer, inner, sizeof(inner), mac, 32, err);
	secmem_wipe(inner, sizeof(inner));
	return rc;
}

/* Whole blocks. */
static int
trace_hash(struct ledger_trace *t, const uint8_t *blocks, size_t n, struct err *err)
{
	uint8_t hashes[BATCH * NH_LEN];

	for (size_t some; n > 0; n -= some, blocks += some * NH_BLOCK) {
		some = n < BATCH ? n : BATCH;
		nh_hash(t->nh_key, blocks, some, hashes);
		if (digest_update(t->running, hashes, some * NH_LEN, err) != 0)
			return -1;
	}
	return 0;
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
	while (len > 0) {
		size_t held = t->pos % NH_BLOCK, n;

		if (held == 0 && len >= NH_BLOCK) {
			n = len - len % NH_BLOCK;
			if (trace_hash(t, data, n / NH_BLOCK, err) != 0)
				return -1;
		} else {
			n = NH_BLOCK - held < len ? NH_BLOCK - held : len;
			memcpy(t->held + held, data, n);
			if (held + n == NH_BLOCK && trace_hash(t, t->held, 1, err) != 0)
				return -1;
		}
		t->pos += n;
		data += n;
		len -= n;
	}
	return 0;
}

/* What is known of the segment before the one that t is in: by t itself, or by the line as it stands. */
static void
before_fill(const struct ledger_trace *t, const struct ledger_slot *now, struct ledger_slot *next)
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

/* Raise the line to where t is, its plaintext's MAC being mac. Mutex held. */
static int
line_advance(struct ledger_trace *t, const uint8_t mac[static 32], struct err *err)
{
	struct ledger *l = t->ledger;
	struct ledger_slot now = *ledger_record_slot(t->at), next = now;

	if (t->pos > next.reserved || memcmp(next.boot_id, l->boot_id, LEDGER_BOOT_ID_LEN) != 0) {
		next.reserved = t->pos + LEDGER_RESERVE;
		memcpy(next.boot_id, l->boot_id, LEDGER_BOOT_ID_LEN);
		ledger_record_put(t->at, &next);
		if (ledger_sync(l, err) != 0)
			return -1;
	}
	next.position = t->pos;
	memcpy(next.mac, mac, sizeof(next.mac));
	before_fill(t, &now, &next);
	ledger_record_put(t->at, &next);
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
trace_look(struct ledger_trace *t, struct ledger_slot *now, struct err *err)
{
	struct ledger_slot *s;

	pthread_mutex_lock(&t->ledger->mutex);
	if ((s = ledger_record_slot(t->at)) != NULL)
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
	struct ledger_slot now;
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
	if (ledger_record_slot(t->at)->incarnation != t->place.incarnation)
		rc = err_set(err, ERR_REFUSED, "this timeline's WAL is encrypted under a new incarnation by now");
	else if (ledger_record_slot(t->at)->position < t->pos)
		rc = line_advance(t, mac, err);
	pthread_mutex_unlock(&t->ledger->mutex);
	return rc;
}
