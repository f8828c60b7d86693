/*
 * reaper COMMAND...: run it, and reap what it leaves behind: processes whose parents are gone come to us instead of to
 * process 1, which in some containers never waits for them. A killed server would look alive there, for kill(pid, 0)
 * finds a zombie, too. And COMMAND can be interrupted, as can what the tests interrupt: a shell that runs us in the
 * background has us ignore SIGINT and SIGQUIT, and who ignores them hands that on. Ends as COMMAND does.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t command;

static void
on_signal(int signal_number)
{
	kill(command, signal_number);
}

int
main(int argc, char **argv)
{
	pid_t pid, child;
	int status;

	if (argc < 2) {
		fprintf(stderr, "usage: reaper COMMAND [ARG]...\n");
		return 2;
	}
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 || (pid = fork()) < 0) {
		fprintf(stderr, "reaper: %s\n", strerror(errno));
		return 1;
	}
	if (pid == 0) {
		signal(SIGINT, SIG_DFL);
		signal(SIGQUIT, SIG_DFL);
		execvp(argv[1], argv + 1);
		fprintf(stderr, "reaper: could not run \"%s\": %s\n", argv[1], strerror(errno));
		_exit(127);
	}
	command = pid;
	signal(SIGTERM, on_signal);
	signal(SIGINT, SIG_IGN); /* a terminal's goes to the command, too */
	while ((child = wait(&status)) != pid)
		if (child < 0 && errno != EINTR)
			return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
