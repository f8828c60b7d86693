/*
 * control: starting, stopping and fencing the server of a node, and reading its pg_control: in its directory on this
 * machine (`datadir`, by pg_ctl), or by the commands of its section (`control`, `control_data`, `fence`, `keys`), which
 * may go anywhere: ssh, systemctl, docker, pg_ctlcluster.
 */
#ifndef CTL_SWITCHOVER_CONTROL_H
#define CTL_SWITCHOVER_CONTROL_H

#include <stdbool.h>

#include "common/datadir.h"
#include "common/settings.h"

struct control {
	const struct settings *settings;
	const struct settings_node *node;
	int timeout_s; /* of a stop or start */
};

/* Can the node be stopped and started, and its pg_control read? ERR_REFUSED says which option is missing. */
int control_check(const struct control *c, struct err *err);
/* Its pg_control. */
int control_read(const struct control *c, struct datadir_control *data, struct err *err);
/* 1: a server runs in its directory; 0: none; -1: not known, because the directory is not here. */
int control_running(const struct control *c);
/* Is its server down, and will it come up again as the standby on this timeline that it was? Known only of a directory
 * on this machine. */
bool control_still_standby(const struct control *c, uint32_t tli);
/*
 * Stop it: fast, and wait; one that is stopped already is fine. immediate: by pg_ctl's mode of that name, only where
 * the directory is here. Start it, with the command line that it had last, and wait. Both ERR_FAILED with what the
 * program said.
 */
int control_stop(const struct control *c, bool immediate, struct err *err);
int control_start(const struct control *c, struct err *err);
/* A server that starts in the directory from now on is a standby (standby.signal), or is so no more. */
int control_fence(const struct control *c, bool on, struct err *err);
/*
 * By the node's `keys` command, which it has: "sync", its directory takes the epochs that the keyset has more;
 * "reencrypt", its directory, stopped, is put under that keyset. keyset: the keyset's folder. No time limit.
 */
int control_keys(const struct control *c, const char *action, const char *keyset, struct err *err);
/* Would control_fence do anything? */
bool control_fences(const struct control *c);

#endif
