/* findings: what walcrypt-ctl doctor has looked at, a line each, with what to do about it. */
#ifndef CTL_DOCTOR_FINDINGS_H
#define CTL_DOCTOR_FINDINGS_H

#include <jansson.h>

#include "common/err.h"

enum finding_level {
	FINDING_OK,
	FINDING_NOTE,    /* could not be looked at, or is only worth knowing */
	FINDING_WARNING, /* works, but not as it should */
	FINDING_PROBLEM  /* does not work, or is not safe */
};
#define FINDING_LEVELS 4

struct findings {
	json_t *list; /* NULL: they are printed as they come */
	unsigned count[FINDING_LEVELS];
	char area[256];  /* what is being looked at: "host", "node blue" ... */
	char first[256]; /* the first problem */
};

/* What follows is about this. */
void findings_area(struct findings *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* One finding; hint says what to do, NULL when there is nothing to be done. */
void finding(struct findings *f, enum finding_level level, const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* An error as a finding. */
void finding_err(struct findings *f, enum finding_level level, const struct err *err);

#endif
