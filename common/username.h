/* username: what the system calls a user. Thread-safe, as getpwuid is not. */
#ifndef COMMON_USERNAME_H
#define COMMON_USERNAME_H

#include <sys/types.h>

#define USERNAME_LEN 256

/* Empty when the system has no name for it. */
void username(uid_t uid, char name[static USERNAME_LEN]);

#endif
