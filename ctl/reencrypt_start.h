/*
 * reencrypt_start: a run of `walcrypt-ctl reencrypt`, up to where files are converted: everything that can be refused
 * is refused before the directory is changed.
 */
#ifndef CTL_REENCRYPT_START_H
#define CTL_REENCRYPT_START_H

#include "ctl/command.h"
#include "ctl/reencrypt.h"
#include "ctl/reencrypt_target.h"

struct reencrypt_options {
	struct common_options common;
	const char *datadir, *to, *kek, *to_kek, *method, *server_config;
	int jobs;
	bool resume, allow_no_checksums;
};

/* One run's facts. */
struct reencrypt_job {
	struct reencrypt r; /* first: what threads get */
	const struct reencrypt_options *options;
	char datadir[PATH_MAX];
	int lock; /* descriptor; -1: none */
	struct source from_source;
	struct reencrypt_target target;
	struct keyset *from;
	char from_text[256]; /* "clear", or what the keys are */
};

/* Nobody else works on the directory, and it is ours. */
int reencrypt_take(struct reencrypt_job *job, struct err *err);
/* A new run: check, store the keys, write the record, put pg_control out of the way. What fails changes nothing. */
int reencrypt_begin(struct reencrypt_job *job, struct err *err);
/* Go on from the record that is there. */
int reencrypt_resume(struct reencrypt_job *job, struct err *err);

#endif
