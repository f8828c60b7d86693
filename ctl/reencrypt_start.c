#include "ctl/reencrypt_start.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "ctl/layer.h"
#include "ctl/reencrypt_work.h"
#include "ctl/server_setting.h"
#include "keymgr/keygen.h"
#include "walcrypt/secmem.h"

/* Files that the server's user could not read afterwards would be no gain; two at once would be a loss. */
int
reencrypt_take(struct reencrypt_job *job, struct err *err)
{
	struct stat st;

	if ((job->lock = open(job->datadir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 || fstat(job->lock, &st) != 0)
		return err_os(err, errno, "could not open data directory \"%s\"", job->datadir);
	if (st.st_uid != geteuid()) {
		err_set(err, ERR_REFUSED, "data directory \"%s\" belongs to another user", job->datadir);
		return err_hint(err, "Run this as the user that the server runs as.");
	}
	if (flock(job->lock, LOCK_EX | LOCK_NB) == 0)
		return 0;
	return errno == EWOULDBLOCK
	           ? err_set(err, ERR_REFUSED, "another walcrypt-ctl works on data directory \"%s\"", job->datadir)
	           : err_os(err, errno, "could not lock data directory \"%s\"", job->datadir);
}

/* The present keys; none when the directory is clear. */
static int
from_open(struct reencrypt_job *job, struct err *err)
{
	const struct reencrypt_options *o = job->options;
	const char *dir = job->datadir;
	char keydir[PATH_MAX];

	snprintf(job->from_text, sizeof(job->from_text), "clear");
	if (path_format(keydir, err, "%s/pg_cryptokeys", dir) != 0)
		return -1;
	if (access(keydir, F_OK) != 0)
		return 0;
	if (source_find(&job->from_source, o->common.config, o->kek, dir, NULL, err) != 0 ||
	    (job->from = source_open(&job->from_source, keydir, err)) == NULL ||
	    keyset_check_cluster(job->from, &job->r.control, dir, err) != 0)
		return -1;
	keyset_describe(job->from, job->from_text);
	job->r.from = job->from;
	return 0;
}

static int
relation_id(const struct keyset *ks, char id[static KEY_ID_HEX_LEN], struct err *err)
{
	snprintf(id, KEY_ID_HEX_LEN, "%s", REENCRYPT_CLEAR);
	return ks == NULL ? 0 : key_id_hex(keyset_relation(ks)->bytes, (size_t)keyset_relation(ks)->len, id, err);
}

/* Do two keysets have the same WAL key, so that WAL stays as it is? NULL is clear. */
static bool
same_wal(const struct keyset *from, const struct keyset *to)
{
	if (from == NULL || to == NULL)
		return false;
	for (size_t i = 0; i < keyset_nepochs(from); i++) {
		const struct keyset_epoch *a = keyset_epoch_at(from, i);
		const struct keyset_epoch *b = keyset_wal_read(to, a->number % KEYSET_MAX_EPOCHS);

		if (b == NULL || b->number != a->number || b->key.len != a->key.len ||
		    !secmem_equal(a->key.bytes, b->key.bytes, sizeof(a->key.bytes)))
			return false;
	}
	return true;
}

/* What the record is to say. */
static int
record_make(struct reencrypt_job *job, struct err *err)
{
	struct reencrypt_record *record = &job->r.record;

	record->state = REENCRYPT_CONVERTING;
	record->system_identifier = job->r.control.system_identifier;
	record->wal = !same_wal(job->r.from, job->r.to) && (job->r.from != NULL || job->r.to != NULL);
	snprintf(record->keyset, sizeof(record->keyset), "%s", job->target.name);
	if (relation_id(job->r.from, record->from, err) != 0 || relation_id(job->r.to, record->to, err) != 0)
		return -1;
	if (strcmp(record->from, record->to) != 0)
		return 0;
	return job->r.from == NULL ? err_set(err, ERR_REFUSED, "data directory \"%s\" is clear already", job->datadir)
	                           : err_set(err, ERR_REFUSED, "data directory \"%s\" is under relation key %s already",
	                                     job->datadir, record->to);
}

static int
check_layer(const struct reencrypt_job *job, struct err *err)
{
	char library[PATH_MAX];

	return job->r.to == NULL ? 0 : layer_library(library, err);
}

static int
preload_read(struct reencrypt_job *job, struct err *err)
{
	const char *config = job->options->server_config;

	if (server_setting(job->datadir, config, "shared_preload_libraries", job->r.record.preload, err) == 0)
		return 0;
	return config != NULL || err->hint[0] != '\0'
	           ? -1
	           : err_hint(err, "If postgresql.conf is not in the data directory, give --server-config FILE.");
}

static int
check_checksums(const struct reencrypt_job *job, struct err *err)
{
	if (job->r.control.checksum_version != 0 || job->options->allow_no_checksums)
		return 0;
	err_set(err, ERR_REFUSED, "the cluster has no data checksums: damage could not be told from a wrong key");
	return err_hint(err, "Switch them on (pg_checksums), or give --allow-no-checksums.");
}

/* Keys and record into pg_reencrypt/, then pg_control: from there on the directory is midway. */
static int
stage(struct reencrypt_job *job, struct err *err)
{
	static const char *const folders[] = {"", "/global"};
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
		if (path_format(path, err, "%s/" REENCRYPT_DIR "%s", job->datadir, folders[i]) != 0 ||
		    durable_mkdir(path, 0700, err) != 0)
			return -1;
	if (path_format(path, err, "%s/" REENCRYPT_DIR "/keys", job->datadir) != 0 ||
	    reencrypt_target_store(&job->target, path, err) != 0 ||
	    reencrypt_record_write(job->datadir, &job->r.record, err) != 0)
		return -1;
	return reencrypt_lock_out(job->datadir, err);
}

int
reencrypt_begin(struct reencrypt_job *job, struct err *err)
{
	struct reencrypt *r = &job->r;
	struct err ignored;

	/* pg_control is read first: where it is, what an earlier try left in pg_reencrypt/ is of no use */
	if (datadir_control_read(job->datadir, &r->control, err) != 0 ||
	    datadir_check_layout(job->datadir, &r->control, err) != 0 ||
	    reencrypt_check_stopped(job->datadir, &r->control, err) != 0 || check_checksums(job, err) != 0 ||
	    reencrypt_abandon(job->datadir, err) != 0)
		return -1;
	if (from_open(job, err) != 0 || reencrypt_target_open(&job->target, job->datadir, job->from, &r->control, err) != 0)
		return -1;
	r->to = job->target.keys;
	if (record_make(job, err) != 0 || check_layer(job, err) != 0 || preload_read(job, err) != 0 ||
	    reencrypt_list_make(job->datadir, r->record.wal, &r->list, err) != 0 || reencrypt_check_files(r, err) != 0 ||
	    reencrypt_list_room(&r->list, job->datadir, r->jobs, REENCRYPT_THREADS(r->jobs), err) != 0)
		return -1;
	if (stage(job, err) == 0)
		return 0;
	if (datadir_control_read(job->datadir, &r->control, &ignored) == 0)
		reencrypt_abandon(job->datadir, &ignored);
	return -1;
}

/* The keys of both sides again, and the record's word that they are the right ones. */
static int
reopen(struct reencrypt_job *job, struct err *err)
{
	char id[KEY_ID_HEX_LEN], path[PATH_MAX];
	struct reencrypt *r = &job->r;

	if (from_open(job, err) != 0 || path_format(path, err, "%s/" REENCRYPT_DIR "/keys", job->datadir) != 0 ||
	    reencrypt_target_reopen(&job->target, job->datadir, path, err) != 0)
		return -1;
	r->to = job->target.keys;
	if (relation_id(r->from, id, err) != 0)
		return -1;
	if (strcmp(id, r->record.from) != 0)
		return err_set(err, ERR_REFUSED, "the re-encryption was begun from relation key %s, not %s", r->record.from,
		               id);
	if (relation_id(r->to, id, err) != 0)
		return -1;
	return strcmp(id, r->record.to) == 0
	           ? 0
	           : err_set(err, ERR_REFUSED, "the re-encryption was begun to relation key %s, not %s", r->record.to, id);
}

int
reencrypt_resume(struct reencrypt_job *job, struct err *err)
{
	const struct reencrypt_options *o = job->options;
	struct reencrypt *r = &job->r;
	char path[PATH_MAX];
	bool locked_out;

	if (o->to != NULL && strcmp(o->to, r->record.keyset) != 0)
		return err_set(err, ERR_USAGE, "the re-encryption was begun with --to=%s", r->record.keyset);
	if (path_format(path, err, "%s/global/pg_control", job->datadir) != 0)
		return -1;
	locked_out = access(path, F_OK) != 0;
	if (path_format(path, err, "%s%s", job->datadir, locked_out ? "/" REENCRYPT_DIR : "") != 0 ||
	    datadir_control_read(path, &r->control, err) != 0)
		return -1;
	if (r->control.system_identifier != r->record.system_identifier)
		return err_set(err, ERR_REFUSED, "the re-encryption was begun on another cluster");
	if (r->record.state == REENCRYPT_COMMITTING)
		return 0;
	/* killed before anything was converted: a server may have run since */
	if (!locked_out && reencrypt_check_stopped(job->datadir, &r->control, err) != 0)
		return -1;
	if (reopen(job, err) != 0)
		return -1;
	if (locked_out)
		return 0;
	if (reencrypt_list_make(job->datadir, r->record.wal, &r->list, err) != 0 || reencrypt_check_files(r, err) != 0)
		return -1;
	reencrypt_list_free(&r->list);
	return reencrypt_lock_out(job->datadir, err);
}
