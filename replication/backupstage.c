#include "replication/backupstage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/autoconf.h"
#include "replication/incrfile.h"
#include "replication/manifest_key.h"
#include "replication/memberkind.h"
#include "replication/memberout.h"
#include "replication/pagecut.h"
#include "replication/relrekey.h"
#include "replication/walfile.h"
#include "walcrypt/pgfile.h"

struct backupstage {
	struct stage base;
	struct backupstage_conf conf;
	struct backupstage_file *keyfiles; /* our copies */
	char *guard;
	char relation_id[KEY_ID_HEX_LEN];
	struct relrekey *relrekey;
	struct incrfile incrfile;
	struct walfile walfile;
	struct memberout out;
	struct backupstage_counts counts;
	/* the archive */
	bool main;        /* not a tablespace's */
	bool conf_seen;   /* postgresql.auto.conf */
	bool keyset_seen; /* the upstream's keyset.json */
	bool inserted;    /* what is ours */
	/* the member */
	enum memberkind kind;
	struct tar_member member;
	struct pgfile file;
	uint32_t block; /* the next one of a relation file */
	struct pagecut cut;
	struct buffer held; /* postgresql.auto.conf, keyset.json: looked at as a whole */
};

static int
damaged(struct err *err, const char *what)
{
	err_set(err, ERR_DAMAGED, "%s", what);
	return err_sqlstate(err, "08P01");
}

static int
insert_keys(struct backupstage *b, struct err *err)
{
	char name[128];
	int paused, rc;

	if ((paused = memberout_insert(&b->out, "pg_cryptokeys/", NULL, 0, err)) < 0 ||
	    (rc = memberout_insert(&b->out, "pg_cryptokeys/live/", NULL, 0, err)) < 0)
		return -1;
	paused |= rc;
	for (size_t i = 0; i < b->conf.nkeyfiles; i++, paused |= rc) {
		snprintf(name, sizeof(name), "pg_cryptokeys/live/%s", b->keyfiles[i].name);
		if ((rc = memberout_insert(&b->out, name, b->keyfiles[i].data, b->keyfiles[i].len, err)) < 0)
			return -1;
	}
	snprintf(name, sizeof(name), MANIFEST_KEY_PATH "%s", b->relation_id);
	return (rc = memberout_insert(&b->out, name, "", 0, err)) < 0 ? -1 : paused | rc;
}

static int
insert_ours(struct backupstage *b, struct err *err)
{
	int paused = 0, rc = 0;

	if (!b->main || b->inserted)
		return 0;
	b->inserted = true;
	if (b->conf.downstream != NULL && (paused = insert_keys(b, err)) < 0)
		return -1;
	if (!b->conf_seen && b->guard[0] != '\0')
		rc = memberout_insert(&b->out, "postgresql.auto.conf", b->guard, strlen(b->guard), err);
	return rc < 0 ? -1 : paused | rc;
}

static bool
is_wal(const struct backupstage *b)
{
	return b->kind == MEMBER_WAL || b->kind == MEMBER_WAL_MAYBE;
}

/* Is it looked at as a whole, before it goes on? */
static bool
is_held(const struct backupstage *b)
{
	return b->kind == MEMBER_CONF || b->kind == MEMBER_KEYSET;
}

static void
count(struct backupstage *b)
{
	struct backupstage_counts *n = &b->counts;
	bool relation = b->kind == MEMBER_RELATION || b->kind == MEMBER_INCREMENTAL, wal = is_wal(b);

	if (b->member.type != TAR_FILE)
		return;
	*(relation ? &n->relation_files : wal ? &n->wal_files : &n->other_files) += 1;
	*(relation ? &n->relation_bytes : wal ? &n->wal_bytes : &n->other_bytes) += b->member.size;
}

static int
begin_member(struct backupstage *b, const struct tar_member *m, struct err *err)
{
	int paused = 0, rc;

	if (b->main && strcmp(memberkind_name(m), "global/pg_control") == 0 && (paused = insert_ours(b, err)) < 0)
		return -1;
	b->member = *m;
	b->cut.n = 0;
	buffer_consume(&b->held, buffer_len(&b->held));
	if (memberkind_of(m, b->main, &b->kind, &b->file, err) != 0)
		return -1;
	b->block = b->file.at.block;
	b->conf_seen = b->conf_seen || b->kind == MEMBER_CONF;
	b->keyset_seen = b->keyset_seen || b->kind == MEMBER_KEYSET;
	if (b->kind == MEMBER_CONF && b->inserted)
		return damaged(err, "postgresql.auto.conf comes behind pg_control in the base backup");
	if (b->kind == MEMBER_INCREMENTAL)
		incrfile_begin(&b->incrfile, &b->file, m->size);
	if (is_wal(b) && walfile_begin(&b->walfile, &b->file, m->size, err) != 0)
		return -1;
	if (b->kind == MEMBER_DROP || is_held(b))
		return paused;
	count(b);
	rc = memberout_begin(&b->out, m, b->kind != MEMBER_OTHER && memberkind_in_manifest(m, b->main), err);
	return rc < 0 ? -1 : paused | rc;
}

static int
put_wal(struct backupstage *b, const uint8_t *page, struct err *err)
{
	uint8_t out[2 * WAL_PAGE_LEN];
	unsigned npages;

	if (walfile_push(&b->walfile, page, out, &npages, err) != 0)
		return -1;
	return memberout_data(&b->out, out, npages * WAL_PAGE_LEN, err);
}

/* A file called like a WAL segment, outside pg_wal: its first page says whether it is one. An encrypted one of a clear
 * upstream is none of ours. */
static void
decide(struct backupstage *b, const uint8_t *page)
{
	enum wal_page_kind kind = walfile_look(&b->walfile, page);
	bool ours = kind == WAL_PAGE_CLEAR || (kind == WAL_PAGE_ENCRYPTED && b->walfile.rekey != NULL);

	b->kind = ours ? MEMBER_WAL : MEMBER_OTHER;
}

static int
take_pages(void *arg, uint8_t *pages, size_t n, struct err *err)
{
	struct backupstage *b = arg;
	const struct backupstage_hooks *hooks = &b->conf.hooks;
	struct page_at at = b->file.at;
	uint8_t *to;
	int rc, paused = 0;

	if (b->kind == MEMBER_RELATION) {
		at.block = b->block;
		b->block += (uint32_t)n;
		if ((to = hooks->room == NULL ? NULL : hooks->room(hooks->arg, n * PAGE_LEN)) == NULL)
			to = pages;
		if (relrekey_pages(b->relrekey, &at, pages, to, (uint32_t)n, err) != 0)
			return -1;
		return memberout_data(&b->out, to, n * PAGE_LEN, err);
	}
	if (b->kind == MEMBER_INCREMENTAL && incrfile_pages(&b->incrfile, b->relrekey, pages, n, err) != 0)
		return -1;
	if (b->kind == MEMBER_WAL_MAYBE)
		decide(b, pages);
	if (!is_wal(b))
		return memberout_data(&b->out, pages, n * PAGE_LEN, err);
	for (; n > 0; n--, pages += PAGE_LEN, paused |= rc)
		if ((rc = put_wal(b, pages, err)) < 0)
			return -1;
	return paused;
}

static int
push_data(struct backupstage *b, uint8_t *data, size_t len, struct err *err)
{
	switch (b->kind) {
	case MEMBER_DROP:
		return 0;
	case MEMBER_CONF:
	case MEMBER_KEYSET:
		buffer_put(&b->held, data, len);
		return buffer_check(&b->held, err);
	case MEMBER_OTHER:
		if (b->cut.n == 0)
			return memberout_data(&b->out, data, len, err);
		break;
	default:
		break;
	}
	return pagecut_push(&b->cut, data, len, take_pages, b, err);
}

/* What is still held of the member. */
static int
flush(struct backupstage *b, struct err *err)
{
	unsigned npages;

	if (b->kind == MEMBER_RELATION && b->cut.n > 0)
		memset(b->cut.page, 0, b->cut.n);
	if (b->kind == MEMBER_INCREMENTAL && incrfile_end(&b->incrfile, b->cut.page, b->cut.n, err) != 0)
		return -1;
	if (b->kind != MEMBER_WAL)
		return memberout_data(&b->out, b->cut.page, b->cut.n, err);
	if (walfile_finish(&b->walfile, b->cut.page, &npages, err) != 0)
		return -1;
	return memberout_data(&b->out, b->cut.page, npages * WAL_PAGE_LEN, err);
}

static int
put_conf(struct backupstage *b, struct err *err)
{
	struct tar_member m = b->member;
	struct buffer text;
	int p, d, e = -1;

	buffer_init(&text, 2 * AUTOCONF_MAX + 1);
	autoconf_put(&text, (const char *)buffer_data(&b->held), buffer_len(&b->held), b->guard);
	m.size = buffer_len(&text);
	if (buffer_check(&text, err) == 0 && (p = memberout_begin(&b->out, &m, true, err)) >= 0 &&
	    (d = memberout_data(&b->out, buffer_data(&text), buffer_len(&text), err)) >= 0 &&
	    (e = memberout_end(&b->out, err)) >= 0)
		e |= p | d;
	buffer_free(&text);
	return e;
}

static int
end_member(struct backupstage *b, struct err *err)
{
	const struct backupstage_hooks *hooks = &b->conf.hooks;
	int paused, rc;

	switch (b->kind) {
	case MEMBER_CONF:
		return put_conf(b, err);
	case MEMBER_KEYSET:
		if (hooks->on_keyset != NULL &&
		    hooks->on_keyset(hooks->arg, buffer_data(&b->held), buffer_len(&b->held), err) != 0)
			return -1;
		return memberout_drop(&b->out, &b->member, err);
	case MEMBER_DROP:
		return b->member.type == TAR_FILE && memberkind_in_manifest(&b->member, b->main)
		           ? memberout_drop(&b->out, &b->member, err)
		           : 0;
	default:
		break;
	}
	if ((paused = flush(b, err)) < 0 || (rc = memberout_end(&b->out, err)) < 0)
		return -1;
	b->kind = MEMBER_OTHER;
	return paused | rc;
}

static int
begin_archive(struct backupstage *b, const struct backup_archive *archive, struct err *err)
{
	size_t digits = strspn(archive->name, "0123456789");

	b->main = archive->path[0] == '\0';
	b->out.prefix[0] = '\0';
	if (b->main)
		return b->inserted ? damaged(err, "the base backup has two main archives") : 0;
	if (digits == 0 || digits > 10 || strcmp(archive->name + digits, ".tar") != 0) {
		err_set(err, ERR_DAMAGED, "archive \"%.100s\" of the base backup is not named after a tablespace",
		        archive->name);
		return err_sqlstate(err, "08P01");
	}
	snprintf(b->out.prefix, sizeof(b->out.prefix), "pg_tblspc/%.*s/", (int)digits, archive->name);
	return 0;
}

static int
end_archive(struct backupstage *b, struct err *err)
{
	const struct backupstage_hooks *hooks = &b->conf.hooks;

	if (b->main && !b->keyset_seen && hooks->on_keyset != NULL && hooks->on_keyset(hooks->arg, NULL, 0, err) != 0)
		return -1;
	return insert_ours(b, err);
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
		return push_data(b, c->data, c->len, err);
	case CHUNK_MEMBER_END:
		return end_member(b, err);
	case CHUNK_ARCHIVE_END:
		if ((paused = end_archive(b, err)) < 0)
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
	buffer_free(&b->held);
	memberout_free(&b->out);
	relrekey_free(b->relrekey);
	incrfile_free(&b->incrfile);
	wal_cipher_free(b->walfile.cipher);
	walrekey_free(b->walfile.rekey);
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
	snprintf(b->relation_id, sizeof(b->relation_id), "%s", conf->relation_id != NULL ? conf->relation_id : "");
	return (b->guard = strdup(conf->guard)) != NULL ? 0 : err_nomem(err);
}

static void
on_fault(void *arg, const struct relrekey_fault *fault)
{
	struct backupstage *b = arg;
	char path[SPOOL_PATH_MAX];

	snprintf(path, sizeof(path), "%s%s", b->out.prefix, memberkind_name(&b->member));
	b->conf.hooks.on_fault(b->conf.hooks.arg, path, fault->block - b->file.at.block, fault->stored, fault->calculated);
}

static int
make_ciphers(struct backupstage *b, struct err *err)
{
	const struct keyset *up = b->conf.upstream, *down = b->conf.downstream;
	struct relrekey_conf rel = {.upstream = up != NULL ? keyset_relation(up) : NULL,
	                            .downstream = down != NULL ? keyset_relation(down) : NULL,
	                            .verify = b->conf.verify,
	                            .on_fault = b->conf.hooks.on_fault != NULL ? on_fault : NULL,
	                            .arg = b};

	return (b->relrekey = relrekey_new(&rel, err)) == NULL ||
	               (down != NULL && (b->walfile.cipher = wal_cipher_new(down, err)) == NULL) ||
	               (up != NULL && (b->walfile.rekey = walrekey_new(up, down, err)) == NULL)
	           ? -1
	           : 0;
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
	buffer_init(&b->held, AUTOCONF_MAX);
	b->out.next = next;
	b->out.spool = conf->spool;
	b->out.checksums = conf->checksums;
	b->out.mtime = conf->mtime;
	if (copy_conf(b, conf, err) != 0 || make_ciphers(b, err) != 0) {
		backupstage_free(&b->base);
		return NULL;
	}
	b->base.next = next;
	return &b->base;
}

void
backupstage_start(struct stage *s, uint64_t lsn)
{
	relrekey_start(((struct backupstage *)s)->relrekey, lsn);
}

const struct backupstage_counts *
backupstage_counted(const struct stage *s)
{
	return &((const struct backupstage *)s)->counts;
}
