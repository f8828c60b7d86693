/* controldata: what pg_controldata prints, where pg_control itself is out of reach (a node on another machine). */
#ifndef CTL_SWITCHOVER_CONTROLDATA_H
#define CTL_SWITCHOVER_CONTROLDATA_H

#include "common/datadir.h"

/* text: its output under LC_ALL=C. Fills system_identifier, version, state, checkpoint, redo, tli, wal_segment_size and
 * checksum_version, zeroes the rest. ERR_DAMAGED names the line that is missing or makes no sense. */
int controldata_parse(const char *text, struct datadir_control *c, struct err *err);

#endif
