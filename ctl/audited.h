/* audited: a command run with its record in the audit log, if it changes or hands out keys and there is a log. */
#ifndef CTL_AUDITED_H
#define CTL_AUDITED_H

#include "ctl/command.h"

/*
 * c->run, and around it the records that it begins and how it ends. The log: WALCRYPT_AUDIT_LOG, else that of the
 * keystore that --keystore names, else the configuration's; a data directory without any has none. words: the command
 * line as it was. When the log cannot be written nothing is run (ERR_REFUSED), but for AUDIT_IF_WRITABLE: that is said,
 * unless it is for want of rights.
 */
int audited_run(const struct command *c, void *options, char *const *words, size_t nwords, const char **args,
                size_t nargs, struct err *err);
/* Where the log is; "" for none. keystore: an option's, or NULL. make: the keystore may be made for it. */
void audited_path(const char *config, const char *keystore, bool make, char path[static 4096]);

#endif
