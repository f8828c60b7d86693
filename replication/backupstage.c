#include "replication/backupstage.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/tar.h"
#include "replication/walfile.h"
#include "walcrypt/page.h"
#include "walcrypt/pgfile.h"

enum treatment { TREAT_PASS, TREAT_RELATION, TREAT_WAL, TREAT_WAL_MAYBE, TREAT_CONF, TREAT_DROP };

struct backupstage {
	struct stage base;
	struct backupstage_conf conf;
	struct backupstage_file *keyfiles; /* our copies */
	char *guard;
	struct page_cipher *page_cipher;
	struct wal_cipher *wal_cipher;
	struct walfile walfile;
	struct backupstage_counts counts;
	/* the archive */
	bool main;       /* not a tablespace's */
	bool conf_seen;  /* postgresql.auto.conf */
	bool inserted;   /* what is ours */
	char prefix[64]; /* what the manifest puts before the archive's names */
	/* the member */
	enum treatment treat;
	struct tar_member member; /* as it goes on; keeps the last one's owner for those that we insert */
	struct pgfile file;
	uint64_t out_pos;
	struct digest *digest;
	uint8_t page[PAGE_LEN]; /* a page that is not whole yet */
	size_t npage;
};

static int
damaged(struct err *err, const char *what)
{
	err_set(err, ERR_DAMAGED, "%s", what);
	return err_sqlstate(err, "08P01");
}

static const char *
plain_name(const char *name)
{
	return strncmp(name, "./", 2) == 0 ? name + 2 : name;
}

static int
push_mark(struct backupstage *b, enum chunk_kind kind, struct err *err)
{
	struct chunk c = {.kind = kind, .member = &b->member};

	return stage_push(b->base.next, &c, err);
}

/* The next bytes of the member as it goes on. */
static int
push_data(struct backupstage *b, uint8_t *data, size_t len, struct err *err)
{
	struct chunk c = {.kind = CHUNK_DATA, .pos = b->out_pos, .member = &b->member, .data = data, .len = len};

	if (len == 0)
		return 0;
	if (b->digest != NULL && digest_update(b->digest, data, len, err) != 0)
		return -1;
	b->out_pos += len;
	return stage_push(b->base.next, &c, err);
}

static int
note(struct backupstage *b, enum spool_kind kind, struct err *err)
{
	struct spool_entry e = {.kind = kind, .size = b->member.size, .mtime = b->member.mtime};
	int len;

	if (b->conf.spool == NULL)
		return 0;
	snprintf(e.path, sizeof(e.path), "%s%s", b->prefix, b->member.name);
	if (b->digest != NULL) {
		if ((len = digest_final(b->digest, e.checksum, err)) < 0)
			return -1;
		e.checksum_len = (size_t)len;
		digest_free(b->digest);
		b->digest = NULL;
	}
	return spool_add(b->conf.spool, &e, err);
}

static int
begin_digest(struct backupstage *b, struct err *err)
{
	if (b->conf.spool == NULL || b->conf.checksums == DIGEST_NONE)
		return 0;
	return (b->digest = digest_new(b->conf.checksums, err)) != NULL ? 0 : -1;
}

/* A whole member of ours: a directory when data is NULL. */
static int
insert(struct backupstage *b, const char *name, const uint8_t *data, size_t len, struct err *err)
{
	uint8_t *copy = NULL;
	int rc = -1, a, d, e;

	snprintf(b->member.name, sizeof(b->member.name), "%s", name);
	b->member.link[0] = '\0';
	b->member.type = data != NULL ? TAR_FILE : TAR_DIRECTORY;
	b->member.mode = data != NULL ? 0600 : 0700;
	b->member.size = data != NULL ? len : 0;
	b->member.mtime = b->conf.mtime;
	b->out_pos = 0;
	if (data == NULL)
		return (a = push_mark(b, CHUNK_MEMBER, err)) < 0 || (e = push_mark(b, CHUNK_MEMBER_END, err)) < 0 ? -1 : a | e;
	/* a chunk's data is writable for the stages behind */
	if ((copy = malloc(len > 0 ? len : 1)) == NULL)
		return err_nomem(err);
	memcpy(copy, data, len);
	if (begin_digest(b, err) == 0 && (a = push_mark(b, CHUNK_MEMBER, err)) >= 0 &&
	    (d = push_data(b, copy, len, err)) >= 0 && (e = push_mark(b, CHUNK_MEMBER_END, err)) >= 0 &&
	    note(b, SPOOL_INSERTED, err) == 0)
		rc = a | d | e;
	free(copy);
	return rc;
}

static int
insert_ours(struct backupstage *b, struct err *err)
{
	struct tar_member interrupted = b->member;
	char name[128];
	int rc, paused;

	if (!b->main || b->inserted)
		return 0;
	b->inserted = true;
	if ((paused = insert(b, "pg_cryptokeys/", NULL, 0, err)) < 0 ||
	    (rc = insert(b, "pg_cryptokeys/live/", NULL, 0, err)) < 0)
		return -1;
	paused |= rc;
	for (size_t i = 0; i < b->conf.nkeyfiles; i++, paused |= rc) {
		snprintf(name, sizeof(name), "pg_cryptokeys/live/%s", b->keyfiles[i].name);
		if ((rc = insert(b, name, b->keyfiles[i].data, b->keyfiles[i].len, err)) < 0)
			return -1;
	}
	if (!b->conf_seen && (rc = insert(b, "postgresql.auto.conf", (const uint8_t *)b->guard, strlen(b->guard), err)) < 0)
		return -1;
	b->member = interrupted;
	return paused | rc;
}

/* Below pg_wal/ nothing is in the manifest that we change. */
static bool
in_manifest(const struct backupstage *b)
{
	return !b->main || strncmp(plain_name(b->member.name), "pg_wal/", 7) != 0;
}

static int
treat_wal(struct backupstage *b, struct err *err)
{
	bool in_pg_wal = !in_manifest(b);

	b->treat = in_pg_wal ? TREAT_WAL : TREAT_WAL_MAYBE;
	if (!walfile_size_valid(b->member.size)) {
		b->treat = TREAT_PASS;
		if (!in_pg_wal)
			return 0;
		err_set(err, ERR_DAMAGED, "WAL file \"%.150s\" in the base backup has an invalid size: %llu bytes",
		        b->member.name, (unsigned long long)b->member.size);
		return err_sqlstate(err, "XX001");
	}
	/* two files of one backup may hold different text for one page: a .partial and the segment after a switch, an
	 * archive folder inside the data directory */
	if (wal_random_generation(&b->walfile.generation, err) != 0)
		return -1;
	b->walfile.generation |= WAL_GENERATION_PROXY;
	b->walfile.segment_size = (uint32_t)b->member.size;
	b->walfile.tli = b->file.tli;
	b->walfile.pageaddr = pgfile_wal_segno(&b->file, b->walfile.segment_size) * b->member.size;
	b->walfile.holding = false;
	return 0;
}

static int
classify(struct backupstage *b, struct err *err)
{
	const char *name = plain_name(b->member.name), *base = strrchr(name, '/');

	b->treat = TREAT_PASS;
	pgfile_parse(name, !b->main, &b->file);
	if (b->file.kind == PGFILE_KEYDIR || b->file.kind == PGFILE_TEMP) {
		b->treat = TREAT_DROP;
		return 0;
	}
	if (b->member.type != TAR_FILE)
		return 0;
	if (strncmp(base != NULL ? base + 1 : name, "INCREMENTAL.", 12) == 0) {
		err_set(err, ERR_REFUSED, "the base backup is incremental: \"%.150s\"", name);
		err_hint(err, "Take a full backup: use pg_basebackup without --incremental.");
		return err_sqlstate(err, "0A000");
	}
	if (b->main && strcmp(name, "postgresql.auto.conf") == 0) {
		if (b->inserted)
			return damaged(err, "postgresql.auto.conf comes behind pg_control in the base backup");
		b->treat = TREAT_CONF;
		b->conf_seen = true;
	} else if (b->file.kind == PGFILE_RELATION) {
		b->treat = TREAT_RELATION;
		/* more blocks would take the tweaks of the next segment's */
		if (b->member.size > (uint64_t)PAGE_BLOCKS_PER_SEGMENT * PAGE_LEN) {
			err_set(err, ERR_REFUSED, "relation file \"%.150s\" in the base backup is larger than 1 GiB", name);
			err_hint(err, "Only servers with relation segments of 1 GiB (SHOW segment_size) are supported.");
			return err_sqlstate(err, "0A000");
		}
	} else if (b->file.kind == PGFILE_WAL)
		return treat_wal(b, err);
	else if (b->file.kind == PGFILE_WAL_TEMP || b->file.kind == PGFILE_WAL_RECOVERY)
		b->treat = TREAT_DROP;
	return 0;
}

static void
count(struct backupstage *b)
{
	struct backupstage_counts *n = &b->counts;
	bool relation = b->treat == TREAT_RELATION, wal = b->treat == TREAT_WAL || b->treat == TREAT_WAL_MAYBE;

	if (b->member.type != TAR_FILE || b->treat == TREAT_DROP)
		return;
	*(relation ? &n->relation_files : wal ? &n->wal_files : &n->other_files) += 1;
	*(relation ? &n->relation_bytes : wal ? &n->wal_bytes : &n->other_bytes) += b->member.size;
}

static int
begin_member(struct backupstage *b, const struct tar_member *m, struct err *err)
{
	int paused = 0, rc;

	if (b->main && strcmp(plain_name(m->name), "global/pg_control") == 0 && (paused = insert_ours(b, err)) < 0)
		return -1;
	b->member = *m;
	b->out_pos = 0;
	b->npage = 0;
	if (classify(b, err) != 0)
		return -1;
	if (b->treat == TREAT_DROP)
		return paused;
	if (b->treat == TREAT_CONF)
		b->member.size += strlen(b->guard);
	count(b);
	if (b->treat != TREAT_PASS && in_manifest(b) && begin_digest(b, err) != 0)
		return -1;
	return (rc = push_mark(b, CHUNK_MEMBER, err)) < 0 ? -1 : paused | rc;
}

/* Whole pages, in place. */
static int
put_relation(struct backupstage *b, uint8_t *data, size_t npages, struct err *err)
{
	struct page_at at = b->file.at;

	at.block += (uint32_t)(b->out_pos / PAGE_LEN);
	if (page_encrypt_many(b->page_cipher, &at, data, data, (uint32_t)npages, err) != 0)
		return -1;
	return push_data(b, data, npages * PAGE_LEN, err);
}

static int
put_wal(struct backupstage *b, const uint8_t *page, struct err *err)
{
	uint8_t out[2 * WAL_PAGE_LEN];
	unsigned npages;

	if (walfile_push(&b->walfile, page, out, &npages, err) != 0)
		return -1;
	return push_data(b, out, npages * WAL_PAGE_LEN, err);
}

/* A file called like a WAL segment, outside pg_wal: its first page says whether it is one. */
static int
decide(struct backupstage *b, uint8_t *page, struct err *err)
{
	enum wal_page_kind kind = walfile_look(&b->walfile, page);

	if (kind == WAL_PAGE_CLEAR) {
		b->treat = TREAT_WAL;
		return put_wal(b, page, err);
	}
	b->treat = TREAT_PASS;
	return push_data(b, page, WAL_PAGE_LEN, err);
}

static int
put_page(struct backupstage *b, uint8_t *page, struct err *err)
{
	if (b->treat == TREAT_RELATION)
		return put_relation(b, page, 1, err);
	return b->treat == TREAT_WAL ? put_wal(b, page, err) : decide(b, page, err);
}

static int
push_pages(struct backupstage *b, uint8_t *data, size_t len, struct err *err)
{
	int rc, paused = 0;
	size_t n;

	for (; len > 0; data += n, len -= n, paused |= rc) {
		rc = 0;
		if (b->treat == TREAT_PASS) { /* decided on the way */
			n = len;
			rc = push_data(b, data, n, err);
		} else if (b->npage == 0 && len >= PAGE_LEN) {
			n = b->treat == TREAT_RELATION ? len - len % PAGE_LEN : PAGE_LEN;
			rc = b->treat == TREAT_RELATION ? put_relation(b, data, n / PAGE_LEN, err) : put_page(b, data, err);
		} else {
			n = PAGE_LEN - b->npage < len ? PAGE_LEN - b->npage : len;
			memcpy(b->page + b->npage, data, n);
			if ((b->npage += n) == PAGE_LEN) {
				b->npage = 0;
				rc = put_page(b, b->page, err);
			}
		}
		if (rc < 0)
			return -1;
	}
	return paused;
}

/* What is still held of the member. */
static int
flush(struct backupstage *b, struct err *err)
{
	unsigned npages;

	if (b->treat == TREAT_RELATION && b->npage > 0) {
		memset(b->page, 0, b->npage);
		return push_data(b, b->page, b->npage, err);
	}
	if (b->treat == TREAT_WAL) {
		if (walfile_finish(&b->walfile, b->page, &npages, err) != 0)
			return -1;
		return push_data(b, b->page, npages * WAL_PAGE_LEN, err);
	}
	if (b->treat == TREAT_CONF) {
		char *copy = strdup(b->guard);
		int rc = copy != NULL ? push_data(b, (uint8_t *)copy, strlen(copy), err) : err_nomem(err);

		free(copy);
		return rc;
	}
	return 0;
}

static int
end_member(struct backupstage *b, struct err *err)
{
	bool changed = b->digest != NULL || b->treat != TREAT_PASS;
	int paused, rc;

	if (b->treat == TREAT_DROP)
		return b->member.type == TAR_FILE && in_manifest(b) ? note(b, SPOOL_DROPPED, err) : 0;
	if ((paused = flush(b, err)) < 0 || (rc = push_mark(b, CHUNK_MEMBER_END, err)) < 0)
		return -1;
	if (changed && in_manifest(b) && note(b, SPOOL_CHANGED, err) != 0)
		return -1;
	b->treat = TREAT_PASS;
	return paused | rc;
}

static int
begin_archive(struct backupstage *b, const struct backup_archive *archive, struct err *err)
{
	size_t digits = strspn(archive->name, "0123456789");

	b->main = archive->path[0] == '\0';
	b->prefix[0] = '\0';
	if (b->main)
		return b->inserted ? damaged(err, "the base backup has two main archives") : 0;
	if (digits == 0 || digits > 10 || strcmp(archive->name + digits, ".tar") != 0) {
		err_set(err, ERR_DAMAGED, "archive \"%.100s\" of the base backup is not named after a tablespace",
		        archive->name);
		return err_sqlstate(err, "08P01");
	}
	snprintf(b->prefix, sizeof(b->prefix), "pg_tblspc/%.*s/", (int)digits, archive->name);
	return 0;
}

static int
backupstage_push(struct stage *stage, struct chunk *c, struct err *err)
{
	struct backupstage *b = (struct backupstage *)stage;
	int paused = 0, rc;

	switch (c->kind) {
	case CHUNK_ARCHIVE:
		if (begin_archive(b, c->archive, err) != 0)
			return -1;
		break;
	case CHUNK_MEMBER:
		return begin_member(b, c->member, err);
	case CHUNK_DATA:
		if (b->treat == TREAT_DROP)
			return 0;
		return b->treat == TREAT_PASS || b->treat == TREAT_CONF ? push_data(b, c->data, c->len, err)
		                                                        : push_pages(b, c->data, c->len, err);
	case CHUNK_MEMBER_END:
		return end_member(b, err);
	case CHUNK_ARCHIVE_END:
		if ((paused = insert_ours(b, err)) < 0)
			return -1;
		break;
	default:
		break;
	}
	return (rc = stage_push(b->base.next, c, err)) < 0 ? -1 : paused | rc;
}

static int
backupstage_finish(struct stage *stage, struct err *err)
{
	struct backupstage *b = (struct backupstage *)stage;

	if (!b->inserted)
		return damaged(err, "the base backup has no main archive");
	return stage_finish(b->base.next, err);
}

static void
backupstage_free(struct stage *stage)
{
	struct backupstage *b = (struct backupstage *)stage;

	if (b->keyfiles != NULL)
		for (size_t i = 0; i < b->conf.nkeyfiles; i++) {
			free((char *)b->keyfiles[i].name);
			free((uint8_t *)b->keyfiles[i].data);
		}
	free(b->keyfiles);
	free(b->guard);
	digest_free(b->digest);
	page_cipher_free(b->page_cipher);
	wal_cipher_free(b->wal_cipher);
	stage_free(b->base.next);
	free(b);
}

static int
copy_conf(struct backupstage *b, const struct backupstage_conf *conf, struct err *err)
{
	b->conf = *conf;
	if ((b->keyfiles = calloc(conf->nkeyfiles > 0 ? conf->nkeyfiles : 1, sizeof(*b->keyfiles))) == NULL)
		return err_nomem(err);
	for (size_t i = 0; i < conf->nkeyfiles; i++) {
		const struct backupstage_file *f = &conf->keyfiles[i];
		uint8_t *data = malloc(f->len > 0 ? f->len : 1);

		b->keyfiles[i].data = data;
		if (data == NULL || (b->keyfiles[i].name = strdup(f->name)) == NULL)
			return err_nomem(err);
		memcpy(data, f->data, f->len);
		b->keyfiles[i].len = f->len;
	}
	/* the file's last line may lack its newline */
	if ((b->guard = malloc(strlen(conf->guard) + 2)) == NULL)
		return err_nomem(err);
	b->guard[0] = '\n';
	memcpy(b->guard + 1, conf->guard, strlen(conf->guard) + 1);
	return 0;
}

static const struct stage_ops backupstage_ops = {backupstage_push, backupstage_finish, backupstage_free};

struct stage *
backupstage_new(const struct backupstage_conf *conf, struct stage *next, struct err *err)
{
	struct backupstage *b = calloc(1, sizeof(*b));

	if (b == NULL) {
		err_nomem(err);
		return NULL;
	}
	b->base.ops = &backupstage_ops;
	if (copy_conf(b, conf, err) != 0 ||
	    (b->page_cipher = page_cipher_new(keyset_relation(conf->keyset), err)) == NULL ||
	    (b->wal_cipher = wal_cipher_new(conf->keyset, err)) == NULL)
		goto fail;
	b->walfile.cipher = b->wal_cipher;
	b->base.next = next;
	return &b->base;
fail:
	backupstage_free(&b->base);
	return NULL;
}

const struct backupstage_counts *
backupstage_counted(const struct stage *s)
{
	return &((const struct backupstage *)s)->counts;
}
