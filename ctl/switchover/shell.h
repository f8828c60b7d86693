/* shell: commands of the configuration, run by /bin/sh; what they say on stderr is kept for the error. */
#ifndef CTL_SWITCHOVER_SHELL_H
#define CTL_SWITCHOVER_SHELL_H

#include <stddef.h>

#include "common/err.h"

/*
 * Run command; out NULL: its output is thrown away, else it goes there, NUL-terminated, at most out_size - 1 bytes.
 * variables: NAME, value, ..., NULL, put into its environment; may be NULL. LC_ALL is C. An exit status other than 0 is
 * ERR_FAILED with its last words.
 */
int shell_run(const char *command, const char *const *variables, int timeout_ms, char *out, size_t out_size,
              struct err *err);
/* The same with an action: in the place of each %a (%% is a percent sign), or behind the command when it has none. */
int shell_action(const char *command, const char *action, const char *const *variables, int timeout_ms,
                 struct err *err);

#endif
