/*
 * reencrypt_work: one thread's part of a re-encryption: it takes files from the list and makes X.walcrypt-new of each.
 *
 * A large file has one thread that began it and ends it; any thread that finds no other large file to begin works on
 * stretches of it. Small files are taken in groups: a step is taken for all of a group before the next, so that they
 * share the waits for the disk.
 */
#ifndef CTL_REENCRYPT_WORK_H
#define CTL_REENCRYPT_WORK_H

#include "ctl/jobs.h"
#include "ctl/reencrypt.h"

/* Threads for so many large files at once: a thread waits for the disk about half of its time. */
#define REENCRYPT_THREADS(jobs) ((jobs) > JOBS_MAX / 2 ? JOBS_MAX : 2 * (jobs))

/* arg: a struct reencrypt. Pages that are no pages under the old key are told on stdout, counted, and carried over as
 * the server sees them. Ends, too, when r->stop was set, which is no error; an error sets it. */
int reencrypt_work(void *arg, struct err *err);

#endif
