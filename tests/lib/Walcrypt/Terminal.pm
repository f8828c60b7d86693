# walcrypt-ctl on a terminal of its own, as somebody sits before it.
#
#   my ($status, $seen, $out, $err) = on_terminal([ [ qr/Passphrase: $/, "secret\n" ] ], 'key', 'backup', $file);
use strict;
use warnings;

package Walcrypt::Terminal;

use Exporter 'import';
use IO::Pty;
use IO::Select;
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);
use Walcrypt ();

our @EXPORT = qw(on_terminal);

# Run it; each answer [regex, text] is typed once everything seen so far matches. The wait status, what was to be seen on the terminal
# (with <answered> where something was typed), stdout and stderr, which are files.
sub on_terminal
{
	my ($answers, @command) = @_;
	my ($tmp, $name) = ($PostgreSQL::Test::Utils::tmp_check, $$);    # tests run side by side
	my $pty = IO::Pty->new;
	my $pid = fork() // die;
	if ($pid == 0) {
		$pty->make_slave_controlling_terminal;
		open(STDIN,  '<', '/dev/null');
		open(STDOUT, '>', "$tmp/pty.$name.out");
		open(STDERR, '>', "$tmp/pty.$name.err");
		close $pty;
		exec($Walcrypt::ctl, @command) or POSIX::_exit(126);
	}
	# our own slave side stays open, so that reading never fails; the end is the end of the process
	my ($seen, $select, $end, $status) = ('', IO::Select->new($pty), time() + 120);
	until (defined $status) {
		if (time() > $end) { kill('KILL', $pid); waitpid($pid, 0); die "timed out on the terminal after: $seen\n"; }
		$status = $? if waitpid($pid, POSIX::WNOHANG()) == $pid;
		while ($select->can_read(0.1)) {
			sysread($pty, my $more, 4096) or last;
			$seen .= $more;
		}
		if (@$answers && $seen =~ $answers->[0][0]) {
			syswrite($pty, (shift @$answers)->[1]);
			$seen .= '<answered>';
		}
	}
	return ($status, $seen, Walcrypt::slurp_from("$tmp/pty.$name.out"), Walcrypt::slurp_from("$tmp/pty.$name.err"));
}

1;
