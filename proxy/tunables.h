/* tunables: settings of the C library that it takes only from its environment, and only when a program starts. */
#ifndef PROXY_TUNABLES_H
#define PROXY_TUNABLES_H

/* Starts this program again, same process and arguments, with GLIBC_TUNABLES for this processor, where that is needed
 * and the user has not chosen otherwise; returns where it is not, and where it fails: everything works without, only
 * slower. Call it first in main(): nothing but the arguments is carried over. */
void tunables_apply(char **argv);

#endif
