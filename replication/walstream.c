#include "replication/walstream.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "walcrypt/load.h"
#include "walcrypt/pgfile.h"
#include "walcrypt/wal.h"
#include "walcrypt/walrekey.h"

enum page_kind {
	PAGE_CLEAR,
	PAGE_SEALED,
	PAGE_ZEROS, /* the rest of a segment after a switch */
	PAGE_UNREAD /* the same, whatever it holds: the scanner saw the switch. Goes out as zeros */
};

struct walstream {
	struct stage base;
	struct walstream_conf conf;
	struct wal_cipher *cipher; /* the downstream's, for a clear upstream; NULL: both are clear */
	struct walrekey *rekey;    /* for an encrypted upstream */
	struct walscan *scan;      /* NULL: not wanted */
	uint64_t pos;              /* LSN of the next byte to come */
	enum page_kind kind;       /* of the page that pos lies in */
	struct wal_header h;       /* its header, as far as it has come */
	uint16_t magic;            /* of the pages so far; 0 before the first */
	uint32_t last_tli;         /* in the header of the page before */
	/* The granule that is not whole yet: its first nheld bytes, as they came; of these nsent went downstream with a
	 * message's end. */
	uint8_t held[WAL_GRANULE];
	size_t nheld, nsent;
	bool passed; /* something went downstream since the last CHUNK_WAL_END */
};

static const struct {
	int major;
	uint16_t magic;
} versions[] = {{15, 0xD110}, {16, 0xD113}, {17, 0xD116}, {18, 0xD118}};

uint16_t
walstream_magic(int major)
{
	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++)
		if (versions[i].major == major)
			return versions[i].magic;
	return 0;
}

int
walstream_major(uint16_t magic)
{
	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++)
		if (versions[i].magic == magic)
			return versions[i].major;
	return 0;
}

static int
bad_page(const struct walstream *s, struct err *err, enum err_class class, const char *text)
{
	char lsn[LSN_TEXT_LEN];

	lsn_format(lsn, s->pos - s->pos % WAL_PAGE_LEN);
	err_set(err, class, "WAL page at %s of timeline %u from the upstream %s", lsn, (unsigned)s->conf.tli, text);
	return err_sqlstate(err, "XX001");
}

/*
 * What follows a segment switch is zeroed, page headers included (source: xlog.c, CopyXLogRecordToWAL), and travels as
 * it is (W2). Unless power was lost in between: then the file's old bytes stand there, nobody reads them, and they are
 * clear.
 */
static const uint8_t no_bytes[WAL_PAGE_LEN];

/* Is the page of the kind that the upstream's are? */
static int
check_kind(const struct walstream *s, struct err *err)
{
	if (s->h.encrypted == (s->conf.upstream != NULL))
		return 0;
	bad_page(s, err, ERR_REFUSED, s->h.encrypted ? "is encrypted" : "is not encrypted");
	return err_hint(err, s->conf.keep_zeros ? "The upstream's node has walsender = clear, but it streams ciphertext."
	                     : s->h.encrypted
	                         ? "Give the upstream's node its keyset, so that what it sends can be read."
	                         : "The upstream's node has a keyset: is it the server that conninfo leads to, "
	                           "and does it stream clear WAL (walsender = clear)?");
}

/* Bytes 0-7: magic, flags, timeline. From here on the page can be transformed. */
static int
take_beginning(struct walstream *s, const uint8_t *granule, struct err *err)
{
	struct wal_header *h = &s->h;
	bool first = s->pos % s->conf.segment_size == 0;

	memset(h, 0, sizeof(*h));
	h->pageaddr = s->pos;
	if (!first && s->scan != NULL && walscan_after_switch(s->scan))
		s->kind = PAGE_UNREAD;
	else if (!first && memcmp(granule, no_bytes, WAL_GRANULE) == 0)
		s->kind = PAGE_ZEROS;
	else
		s->kind = PAGE_CLEAR;
	if (s->kind != PAGE_CLEAR)
		return 0;
	h->magic = load16(granule);
	h->info = load16(granule + 2);
	h->tli = load32(granule + 4);
	if (walstream_major(h->magic) == 0 || (s->magic != 0 && h->magic != s->magic))
		return bad_page(s, err, ERR_DAMAGED, "has no page header of PostgreSQL 15 to 18");
	if ((h->info & WAL_INFO_ENCRYPTED) != 0) {
		s->kind = PAGE_SEALED;
		h->encrypted = true;
		h->epoch7 = (uint8_t)((h->info & WAL_INFO_EPOCH_MASK) >> WAL_INFO_EPOCH_SHIFT);
		h->info &= (uint16_t) ~(WAL_INFO_ENCRYPTED | WAL_INFO_EPOCH_MASK);
	}
	h->len = (h->info & WAL_INFO_LONG) != 0 ? WAL_LONG_HEADER_LEN : WAL_HEADER_LEN;
	if (check_kind(s, err) != 0)
		return -1;
	if ((h->info & ~WAL_INFO_KNOWN) != 0 || (h->len == WAL_LONG_HEADER_LEN) != first)
		return bad_page(s, err, ERR_DAMAGED, "has invalid info bits");
	if (h->tli == 0 || h->tli > s->conf.tli || h->tli < s->last_tli)
		return bad_page(s, err, ERR_DAMAGED, "belongs to another timeline");
	s->magic = h->magic;
	s->last_tli = h->tli;
	return 0;
}

/* One of the header's other granules. */
static int
take_header(struct walstream *s, size_t off, const uint8_t *granule, struct err *err)
{
	uint64_t eight = load64(granule);
	uint32_t first = load32(granule), second = load32(granule + 4);

	switch (off / WAL_GRANULE) {
	case 1:
		return eight == s->h.pageaddr ? 0 : bad_page(s, err, ERR_DAMAGED, "says that it is at another position");
	case 2:
		s->h.generation = second;
		return s->kind == PAGE_SEALED || second == 0
		           ? 0
		           : bad_page(s, err, ERR_DAMAGED, "has a header whose padding is not zero");
	case 3:
		return eight == s->conf.system_identifier ? 0 : bad_page(s, err, ERR_DAMAGED, "belongs to another cluster");
	default:
		return first == s->conf.segment_size && second == WAL_PAGE_LEN
		           ? 0
		           : bad_page(s, err, ERR_DAMAGED, "has another segment or page size than the server says");
	}
}

static int
scan(struct walstream *s, const uint8_t *text, size_t len, struct err *err)
{
	char lsn[LSN_TEXT_LEN], why[sizeof(err->text)];
	int rc = s->scan == NULL ? 0 : walscan_push(s->scan, text, len, err);

	if (rc == 0)
		return 0;
	if (rc < 0 && err->class == ERR_DAMAGED && s->kind == PAGE_SEALED && walscan_records(s->scan) == 0) {
		memcpy(why, err->text, sizeof(why));
		err_set(err, ERR_WRONG_KEY, "the upstream's WAL does not open with its keyset's WAL key of epoch %u",
		        keyset_wal_read(s->conf.upstream, s->h.epoch7)->number);
		err_detail(err, "%s.", why);
		return err_sqlstate(err, "XX001");
	}
	if (rc < 0)
		return err->class == ERR_DAMAGED ? err_context(err, "the upstream's stream is damaged") : -1;
	lsn_format(lsn, walscan_end(s->scan));
	err_set(err, ERR_DAMAGED, "the upstream's stream is damaged: WAL ends at %s, but more comes", lsn);
	return err_sqlstate(err, "XX001");
}

/* Granules of one page, whose header is known as far as they go. to may be data; of a sealed page it is. */
static int
convert_page(struct walstream *s, size_t off, uint8_t *data, uint8_t *to, size_t len, struct err *err)
{
	uint8_t text[WAL_PAGE_LEN];

	switch (s->kind) {
	case PAGE_ZEROS:
		if (memcmp(data, no_bytes, len) != 0)
			return bad_page(s, err, ERR_DAMAGED, "has no page header");
		/* FALLTHROUGH */
	case PAGE_UNREAD:
		if (scan(s, data, len, err) != 0)
			return -1;
		memset(to, 0, len);
		return 0;
	case PAGE_SEALED:
		if (walrekey_range(s->rekey, &s->h, off, data, s->scan != NULL ? text : NULL, len, err) != 0)
			return -1;
		return s->scan != NULL ? scan(s, text, len, err) : 0;
	case PAGE_CLEAR:
		break;
	}
	if (scan(s, data, len, err) != 0)
		return -1;
	if (s->cipher != NULL)
		return wal_range_encrypt(s->cipher, &s->h, s->conf.generation, s->conf.keep_zeros, off, data, to, len, err);
	if (to != data)
		memcpy(to, data, len);
	return 0;
}

/* Whole granules; advances pos. */
static int
convert(struct walstream *s, uint8_t *data, uint8_t *to, size_t len, struct err *err)
{
	while (len > 0) {
		size_t off = s->pos % WAL_PAGE_LEN, n = WAL_PAGE_LEN - off < len ? WAL_PAGE_LEN - off : len;

		if (off == 0 && take_beginning(s, data, err) != 0)
			return -1;
		for (size_t at = off == 0 ? WAL_GRANULE : off; at < s->h.len && at < off + n; at += WAL_GRANULE)
			if (take_header(s, at, data + (at - off), err) != 0)
				return -1;
		if (convert_page(s, off, data, to, n, err) != 0)
			return -1;
		s->pos += n;
		data += n;
		to += n;
		len -= n;
	}
	return 0;
}

/* Hand on data, which is at lsn, but for what lies before `from`. */
static int
pass(struct walstream *s, uint64_t lsn, uint8_t *data, size_t len, struct err *err)
{
	struct chunk c = {.kind = CHUNK_WAL, .pos = lsn, .data = data, .len = len};

	if (lsn < s->conf.from) {
		if (s->conf.from - lsn >= len)
			return 0;
		c.pos = s->conf.from;
		c.data += s->conf.from - lsn;
		c.len -= s->conf.from - lsn;
	}
	if (c.len == 0)
		return 0;
	s->passed = true;
	return stage_push(s->base.next, &c, err);
}

/* Complete the held granule from data; *used says how much that took. */
static int
fill_held(struct walstream *s, const uint8_t *data, size_t len, size_t *used, struct err *err)
{
	size_t n = WAL_GRANULE - s->nheld < len ? WAL_GRANULE - s->nheld : len, sent = s->nsent;
	uint64_t lsn = s->pos;

	memcpy(s->held + s->nheld, data, n);
	s->nheld += n;
	*used = n;
	if (s->nheld < WAL_GRANULE)
		return 0;
	s->nheld = s->nsent = 0;
	if (convert(s, s->held, s->held, WAL_GRANULE, err) != 0)
		return -1;
	return pass(s, lsn + sent, s->held + sent, WAL_GRANULE - sent, err);
}

static int
push_wal(struct walstream *s, struct chunk *c, struct err *err)
{
	/* where more goes out than came, of a granule held before, it would not fit there */
	bool aside = c->to != NULL && s->conf.upstream == NULL && s->nheld == s->nsent;
	uint8_t *data = c->data, *to = aside ? c->to : data;
	size_t len = c->len, used, whole;
	uint64_t lsn;
	int rc, paused = 0;

	if (c->pos != s->pos + s->nheld) {
		char want[LSN_TEXT_LEN], got[LSN_TEXT_LEN];

		lsn_format(want, s->pos + s->nheld);
		lsn_format(got, c->pos);
		err_set(err, ERR_DAMAGED, "WAL from the upstream continues at %s instead of %s", got, want);
		return err_sqlstate(err, "08P01");
	}
	if (s->nheld > 0) {
		if ((paused = fill_held(s, data, len, &used, err)) < 0)
			return -1;
		data += used;
		to += used;
		len -= used;
		if (len == 0)
			return paused;
	}
	lsn = s->pos;
	whole = len - len % WAL_GRANULE;
	if (convert(s, data, to, whole, err) != 0 || (rc = pass(s, lsn, to, whole, err)) < 0)
		return -1;
	s->nheld = len - whole;
	memcpy(s->held, data + whole, s->nheld);
	return rc | paused;
}

/* The bytes held of a page, as they go downstream while their granule is not whole. */
static int
convert_part(struct walstream *s, uint8_t part[static WAL_GRANULE], struct err *err)
{
	size_t off = s->pos % WAL_PAGE_LEN;
	const struct keyset_epoch *epoch;

	memset(part, 0, WAL_GRANULE);
	/* off is 0 where no header of this page has come: s->h is still the page before's */
	if (off == 0 || (s->kind == PAGE_CLEAR && off < s->h.len))
		return bad_page(s, err, ERR_DAMAGED, "arrives in two messages that part inside its header");
	if (s->kind == PAGE_ZEROS && memcmp(s->held, no_bytes, s->nheld) != 0)
		return bad_page(s, err, ERR_DAMAGED, "has no page header");
	if (s->kind != PAGE_CLEAR)
		return 0;
	memcpy(part, s->held, s->nheld);
	if (s->cipher == NULL)
		return 0;
	if ((epoch = keyset_wal_write(s->conf.downstream, s->h.tli)) == NULL)
		return err_set(err, ERR_WRONG_KEY, "the keyset has no WAL key for timeline %u", (unsigned)s->h.tli);
	return wal_cipher_xor(s->cipher, epoch->number % KEYSET_MAX_EPOCHS, s->h.tli, s->conf.generation, s->h.pageaddr,
	                      off, s->held, part, s->nheld, err);
}

/* Must a granule be whole to be converted? Whether it is raw zero its last byte decides. */
static bool
whole_only(const struct walstream *s)
{
	return s->kind == PAGE_SEALED || (s->kind == PAGE_CLEAR && s->cipher != NULL && s->conf.keep_zeros);
}

/* A message ends inside a granule: the part goes out too, so that the downstream's message ends there (P1), if it can.
 */
static int
push_end(struct walstream *s, struct chunk *c, struct err *err)
{
	uint8_t part[WAL_GRANULE];
	size_t sent = s->nsent;
	int rc = 0, paused = 0;

	if (s->nheld > s->nsent && (!whole_only(s) || s->pos % WAL_PAGE_LEN == 0)) {
		if (convert_part(s, part, err) != 0)
			return -1;
		s->nsent = s->nheld;
		if ((rc = pass(s, s->pos + sent, part + sent, s->nheld - sent, err)) < 0)
			return -1;
	}
	if (!s->passed)
		return rc;
	s->passed = false;
	c->pos = s->pos + s->nsent;
	if ((paused = stage_push(s->base.next, c, err)) < 0)
		return -1;
	return rc | paused;
}

static int
walstream_push(struct stage *stage, struct chunk *c, struct err *err)
{
	struct walstream *s = (struct walstream *)stage;

	if (c->kind == CHUNK_WAL)
		return push_wal(s, c, err);
	if (c->kind == CHUNK_WAL_END)
		return push_end(s, c, err);
	return stage_push(s->base.next, c, err);
}

static int
walstream_finish(struct stage *stage, struct err *err)
{
	struct walstream *s = (struct walstream *)stage;

	if (s->nheld > s->nsent)
		return bad_page(s, err, ERR_DAMAGED, "is cut off inside a message");
	return stage_finish(s->base.next, err);
}

static void
walstream_free(struct stage *stage)
{
	struct walstream *s = (struct walstream *)stage;

	wal_cipher_free(s->cipher);
	walrekey_free(s->rekey);
	walscan_free(s->scan);
	stage_free(s->base.next);
	free(s);
}

static const struct stage_ops walstream_ops = {walstream_push, walstream_finish, walstream_free};

struct stage *
walstream_new(const struct walstream_conf *conf, struct stage *next, struct err *err)
{
	struct walscan_conf scan_conf = {conf->segment_size, conf->on_event, conf->arg};
	struct walstream *s;

	/* source: xlog_internal.h, IsValidWalSegSize */
	if (conf->segment_size < 1 << 20 || conf->segment_size > 1 << 30 ||
	    (conf->segment_size & (conf->segment_size - 1)) != 0) {
		err_set(err, ERR_DAMAGED, "invalid WAL segment size: %u bytes", (unsigned)conf->segment_size);
		return NULL;
	}
	if ((s = calloc(1, sizeof(*s))) == NULL) {
		err_nomem(err);
		return NULL;
	}
	s->base.ops = &walstream_ops;
	s->conf = *conf;
	s->pos = walstream_begin(conf->from, conf->segment_size);
	if ((conf->upstream != NULL && (s->rekey = walrekey_new(conf->upstream, conf->downstream, err)) == NULL) ||
	    (conf->upstream == NULL && conf->downstream != NULL &&
	     (s->cipher = wal_cipher_new(conf->downstream, err)) == NULL) ||
	    (conf->scan && (s->scan = walscan_new(&scan_conf, s->pos, err)) == NULL)) {
		walstream_free(&s->base);
		return NULL;
	}
	s->base.next = next;
	return &s->base;
}
