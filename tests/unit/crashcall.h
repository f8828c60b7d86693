/*
 * crashcall: a program that dies at its nth change of the file system, as by a power cut.
 *
 * This file defines write, fsync, rename, link, unlink, unlinkat, rmdir and mkdir in front of libc's, so everything
 * that is linked with it is counted. At the nth call the process ends before the call is made, and what was written to
 * a file but not fsynced is lost: the file is cut to nothing, the worst that a file system may do.
 */
#ifndef TESTS_UNIT_CRASHCALL_H
#define TESTS_UNIT_CRASHCALL_H

#define CRASHCALL_STATUS 77

/*
 * Run work(arg) in a child that dies at call n (counted from 1).
 * Returns CRASHCALL_STATUS when it died there, else work's status: there were fewer calls than n.
 */
int crashcall_run(int n, int (*work)(void *arg), void *arg);

#endif
