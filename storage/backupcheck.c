#include "storage/backupcheck.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "storage/process.h"
#include "storage/raw.h"
#include "storage/report.h"
#include "storage/textpatch.h"
#include "storage/unlock.h"

#define SHOWN_PER_FILE 5 /* warnings; as the server */
#define COPY_PAGES 8     /* decrypted at a time */

/* Pauses before a page is read again: a writer that was put off between two halves of a page goes on soon. In a file
 * with many bad pages only the first ones are tried. */
static const long retry_ns[] = {0, 1000000, 10000000, 100000000};
#define RETRIES (sizeof(retry_ns) / sizeof(retry_ns[0]))
#define RETRIES_LATER 2

static struct {
	bool learned, checksums; /* does the cluster have checksums? Fixed for a server's life. */
	uint64_t (*redo_lsn)(void), (*insert_lsn)(void), (*replay_lsn)(uint32_t *);
	bool (*in_recovery)(void);
	void (*count)(uint32_t, int), (*count_prepare)(uint32_t);
	struct textpatch enabled, end;
} server;

/* The command that is being executed and the file that it has open. */
static struct {
	uint64_t command;
	uint64_t start_lsn;
	unsigned long long failures;
	bool warned; /* that nothing is verified */
	int fd;      /* -1: none */
	bool asked;  /* the server asked for checksums of this file */
	unsigned file_failures;
	char path[1024];
} backup = {.fd = -1};

/* Stands in for DataChecksumsEnabled. The server asks after it has opened a file, if its client wants checksums
 * verified; everybody else in this process, who writes a page perhaps, gets the truth. */
static bool
checksums_enabled(void)
{
	if (backup.fd < 0)
		return server.checksums;
	backup.asked = true;
	return false;
}

static void
file_done(void)
{
	struct err err;

	if (backup.file_failures > 1) {
		err_set(&err, ERR_DAMAGED, "file \"%s\" has a total of %u checksum verification failures", backup.path,
		        backup.file_failures);
		backup.file_failures = 0;
		report(REPORT_WARNING, &err);
	}
	backup.file_failures = 0;
}

/* Stands in for EndReplicationCommand once a page was bad: the backup was sent, and is not a good one. */
static void
command_end(const char *tag)
{
	void (*end)(const char *) = (void (*)(const char *))process_symbol("EndReplicationCommand");
	unsigned long long failures = backup.failures;
	struct err err;

	if (textpatch_restore(&server.end, &err) != 0)
		process_die(&err);
	if (process_command() != backup.command || failures == 0) {
		end(tag);
		return;
	}
	backup.failures = 0;
	file_done();
	if (failures > 1) {
		err_set(&err, ERR_DAMAGED, "%llu total checksum verification failures", failures);
		report(REPORT_WARNING, &err);
	}
	err_set(&err, ERR_DAMAGED, "checksum verification failure during base backup");
	err_sqlstate(&err, "XX001");
	report(REPORT_ERROR, &err);
}

/* Once in a walsender. */
static void
learn(void)
{
	bool (*enabled)(void) = (bool (*)(void))process_symbol("DataChecksumsEnabled");
	struct err err;

	server.learned = true;
	server.redo_lsn = (uint64_t(*)(void))process_symbol("GetRedoRecPtr");
	server.insert_lsn = (uint64_t(*)(void))process_symbol("GetXLogInsertRecPtr");
	server.replay_lsn = (uint64_t(*)(uint32_t *))process_symbol("GetXLogReplayRecPtr");
	server.in_recovery = (bool (*)(void))process_symbol("RecoveryInProgress");
	server.count = (void (*)(uint32_t, int))process_symbol("pgstat_report_checksum_failures_in_db");
	server.count_prepare = (void (*)(uint32_t))process_symbol("pgstat_prepare_report_checksum_failure");
	if (enabled == NULL || !enabled())
		return;
	server.checksums = true;
	if (server.redo_lsn == NULL || server.insert_lsn == NULL || server.replay_lsn == NULL ||
	    server.in_recovery == NULL || server.count == NULL)
		err_set(&err, ERR_REFUSED, "this build of the server does not export its positions in WAL");
	else if (textpatch_set(&server.enabled, "DataChecksumsEnabled", (void (*)(void))checksums_enabled, &err) == 0)
		return;
	log_err(LOG_WARNING, &err, "could not arrange for page checksums of base backups");
}

void
backupcheck_open(int fd, const char *path)
{
	uint64_t command = process_command();

	if (!server.learned)
		learn();
	if (!server.checksums)
		return;
	if (command != backup.command) {
		backup.command = command;
		backup.failures = 0;
		backup.file_failures = 0;
		backup.warned = false;
		/* at or behind the backup's own start, whose checkpoint is done: no page is let pass that the server would
		 * look at */
		backup.start_lsn = server.redo_lsn != NULL ? server.redo_lsn() : 0;
	}
	file_done();
	snprintf(backup.path, sizeof(backup.path), "%s", path);
	backup.asked = false;
	backup.fd = fd;
}

void
backupcheck_close(int fd)
{
	if (fd == backup.fd)
		backup.fd = -1;
}

static uint64_t
end_lsn(void)
{
	return server.in_recovery() ? server.replay_lsn(NULL) : server.insert_lsn();
}

enum verdict { GOOD, BAD, WILL_BE_REPLAYED };

/* A decrypted page; sum: what its checksum should be. */
static enum verdict
judge(const uint8_t *page, uint32_t block, uint16_t *sum)
{
	uint64_t lsn = page_lsn(page);

	*sum = 0;
	if (page_is_zero(page))
		return GOOD;
	*sum = page_checksum(page, block);
	if (*sum == page_stored_checksum(page))
		return GOOD;
	return lsn >= backup.start_lsn && lsn <= end_lsn() ? WILL_BE_REPLAYED : BAD;
}

static int
decrypt(int fd, const struct page_at *at, const uint8_t *in, uint8_t *out, uint32_t n)
{
	struct err err;

	return page_decrypt_many(keys.page, at, in, out, n, &err) == 0 ? 0 : process_fail(&err, fd);
}

/* Read the page again until it is whole or it is no use. clear holds it decrypted at the end. */
static enum verdict
read_again(int fd, const struct page_at *at, uint8_t *page, uint8_t *clear, off_t off, uint16_t *sum)
{
	uint8_t again[PAGE_LEN];
	enum verdict verdict = BAD;

	for (size_t i = 0; verdict == BAD && i < (backup.file_failures < SHOWN_PER_FILE ? RETRIES : RETRIES_LATER); i++) {
		struct timespec pause = {.tv_nsec = retry_ns[i]};

		if (pause.tv_nsec != 0)
			nanosleep(&pause, NULL);
		if (raw_pread_full(fd, again, PAGE_LEN, off) != PAGE_LEN)
			return WILL_BE_REPLAYED; /* truncated meanwhile */
		if (decrypt(fd, at, again, clear, 1) != 0)
			return BAD;
		memcpy(page, again, PAGE_LEN);
		verdict = judge(clear, at->block, sum);
	}
	return verdict;
}

static void
bad_page(const struct page_at *at, uint32_t block_in_file, uint16_t sum, uint16_t stored)
{
	struct err err;

	if (backup.failures++ == 0 &&
	    textpatch_set(&server.end, "EndReplicationCommand", (void (*)(void))command_end, &err) != 0)
		log_err(LOG_WARNING, &err, "the backup will not fail at its end");
	if (server.count_prepare != NULL)
		server.count_prepare(at->db);
	server.count(at->db, 1);
	if (++backup.file_failures > SHOWN_PER_FILE)
		return;
	err_set(&err, ERR_DAMAGED, "checksum verification failed in file \"%s\", block %u: calculated %X but expected %X",
	        backup.path, block_in_file, sum, stored);
	report(REPORT_WARNING, &err);
	if (backup.file_failures == SHOWN_PER_FILE) {
		err_set(&err, ERR_DAMAGED, "further checksum verification failures in file \"%s\" will not be reported",
		        backup.path);
		report(REPORT_WARNING, &err);
	}
}

/* The server did not ask: the client does not want checksums verified, or the question could not be heard. */
static void
not_asked(void)
{
	struct err err;

	if (backup.warned || process_command_has("verify_checksums"))
		return;
	backup.warned = true;
	err_set(&err, ERR_REFUSED, "page checksums are not verified in this base backup");
	err_detail(&err,
	           "The storage layer could not take the server's place in verifying them, and what the server itself "
	           "says about checksums here is about ciphertext.");
	err_hint(&err, "Use --no-verify-checksums, and \"walcrypt-ctl verify\" on the backup.");
	report(REPORT_WARNING, &err);
}

void
backupcheck_read(int fd, const struct file *f, uint8_t *buf, size_t n, off_t off)
{
	static uint8_t clear[COPY_PAGES * PAGE_LEN] __attribute__((aligned(4096)));
	uint32_t first = (uint32_t)(off / PAGE_LEN), pages = (uint32_t)(n / PAGE_LEN);
	struct page_at at = f->at;

	if (fd != backup.fd || off % PAGE_LEN != 0)
		return;
	if (!backup.asked) {
		not_asked();
		return;
	}
	unlock_needed();
	for (uint32_t i = 0; i < pages; i++) {
		uint8_t *page = buf + (size_t)i * PAGE_LEN, *copy = clear + (size_t)(i % COPY_PAGES) * PAGE_LEN;
		uint32_t ahead = pages - i < COPY_PAGES ? pages - i : COPY_PAGES;
		enum verdict verdict;
		uint16_t sum;

		at.block = f->at.block + first + i;
		if (i % COPY_PAGES == 0 && decrypt(fd, &at, page, clear, ahead) != 0)
			return;
		verdict = judge(copy, at.block, &sum);
		if (verdict == BAD)
			verdict = read_again(fd, &at, page, copy, off + (off_t)i * PAGE_LEN, &sum);
		if (verdict == BAD)
			bad_page(&at, first + i, sum, page_stored_checksum(copy));
	}
}
