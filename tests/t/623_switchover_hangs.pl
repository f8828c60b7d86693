# Goal: a primary in a directory of this machine that does not stop in time (one of its backends hangs): the switchover stops midway and says what can be done; --abort puts
# everything back although it still hangs, and once it has stopped --resume goes on, with the proof. No acknowledged commit is lost either way.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;
use Walcrypt::Writers;

my ($proxy, %node) = red_and_blue("wal_retrieve_retry_interval = 100ms\nwal_keep_size = 256MB\nlog_statement = none\n");
my ($red, $blue) = @node{qw(red blue)};
my $writers = Walcrypt::Writers->new(2, $red, $blue);
$writers->start;
my @switchover = ('switchover', '--config', $proxy->conf);
sub streams { wait_for('blue to stream', sub { IPC::Run::run([ $Walcrypt::ctl, @switchover, '--to', 'blue', '--dry-run' ], '<', \undef, '>', \my $out, '2>', \my $err) }); return; }

# A backend that answers no signal but SIGKILL.
sub hang
{
	my $session = $red->background_psql('postgres');
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	kill('STOP', $pid) or die "no backend $pid\n";
	return ($session, $pid);
}

for my $how ('--abort', '--resume') {
	streams();
	my ($session, $pid) = hang();
	my ($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue', '--timeout', 10);
	is($rc, 7, "$how: a primary that hangs: stopped midway") or diag($out, $err);
	like($err, qr/^ERROR:  could not stop node "red": pg_ctl ended with exit status 1\n.*HINT:  Whatever "red" waits for may be in its log\. Go on with --resume when it has stopped; --abort stops it immediately/ms, "$how: ... which is said");
	is($blue->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', "$how: nothing is promoted");
	if ($how eq '--resume') {
		kill('CONT', $pid);
		wait_for('its end', sub { !-e $red->data_dir . '/postmaster.pid' });
	}
	($rc, $out, $err) = ctl_output(@switchover, $how);
	is($rc, 0, "$how: goes well") or diag($out, $err);
	is($proxy->console('SHOW STATUS') =~ /^paused\|no$/m ? 1 : 0, 1, "$how: the proxy holds nobody");
	is(-e $red->data_dir . '/standby.signal' ? 'fenced' : 'not fenced', $how eq '--abort' ? 'not fenced' : 'fenced', "$how: the old primary");
	$red->_update_pid($how eq '--abort' ? 1 : 0);
	$writers->wait_for_commits(20, $how eq '--abort' ? 'red' : 'blue');
	eval { $session->quit };
}
$writers->account($blue);
$blue->stop;
done_testing();
