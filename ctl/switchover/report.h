/* report: what a switchover was: as text for people, as JSON for programs, as a picture. */
#ifndef CTL_SWITCHOVER_REPORT_H
#define CTL_SWITCHOVER_REPORT_H

#include <stdio.h>

#include "ctl/switchover/logbook.h"
#include "ctl/switchover/sampler.h"

void report_text(const struct logbook *l, FILE *to);
/* PREFIX.txt, PREFIX.json and PREFIX.svg; what was there before goes. */
int report_files(const char *prefix, const struct logbook *l, const struct samples *samples, struct err *err);
/* Seconds from the last transaction seen on the old primary to the first on the new one, when they were looked at;
 * else from the step that stops clients to the promotion, the upper bound of what they see. 0: not known. */
double report_pause_s(const struct logbook *l);
/* What is in use no more, but for backups and archives; NULL: nothing. */
const char *report_retire(const struct logbook *l, char out[static 128]);

#endif
