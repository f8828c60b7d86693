/* confirm: a word that somebody must type before something goes that never comes back. */
#ifndef CTL_CONFIRM_H
#define CTL_CONFIRM_H

#include "common/err.h"

/* Ask on the terminal, whatever stdin is. ERR_REFUSED when there is none, or when something else is typed. */
int confirm_typed(const char *question, const char *word, struct err *err);

#endif
