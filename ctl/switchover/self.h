/* self: another command of this program, as a process of its own, with the same configuration file. */
#ifndef CTL_SWITCHOVER_SELF_H
#define CTL_SWITCHOVER_SELF_H

#include "common/settings.h"

/* args: NULL-terminated, "reencrypt", "-D", ...; options alone, as "--config FILE" is put behind them. What it prints
 * goes where ours goes. An exit status other than 0 is ERR_FAILED naming the command; *status, if not NULL, gets it. */
int self_run(const struct settings *settings, const char *const *args, int *status, struct err *err);

#endif
