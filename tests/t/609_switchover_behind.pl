# Goal: a standby that falls behind when the checks have been made: replay is paused, delayed, or its receiver does not take anything any more. The
# primary is not stopped before the standby is near; it is waited for with a word now and then, not longer than --timeout, and then all is as
# before, by itself. When it only stops replaying after the fence, the old primary is started again. One that is slow and comes is waited for.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;
use Walcrypt::Writers;

my $tmp = PostgreSQL::Test::Utils::tempdir();
my ($proxy, %node) = red_and_blue("wal_retrieve_retry_interval = 100ms\nwal_keep_size = 256MB\nlog_statement = none\n",
	settings => { switchover_hook => "sh $tmp/hook" }, red => { control => "sh $tmp/control %a" });
my ($red, $blue) = @node{qw(red blue)};
my $writers = Walcrypt::Writers->new(2, $red, $blue);
$writers->start;
my @switchover = ('switchover', '--config', $proxy->conf, '--to', 'blue');
append_to_file("$tmp/control", <<"END");
D=@{[$red->data_dir]}
if [ \$1 = start ]; then pg_ctl -D \$D -l @{[$red->logfile]} -w restart >/dev/null 2>&1; exit; fi
[ ! -e $tmp/pause ] || { psql -XAtq -d '@{[$blue->connstr_for_proxy]} dbname=postgres' -c 'SELECT pg_wal_replay_pause()'; echo yes >$tmp/paused; }
pg_ctl -D \$D -m fast -w stop >/dev/null
END
my $on_blue = "psql -XAtq -d '" . $blue->connstr_for_proxy . " dbname=postgres'";

# What happens when the traffic is held, which is after all checks and before the fence.
sub hook
{
	my ($command) = @_;
	unlink "$tmp/hook";
	append_to_file("$tmp/hook", "[ \"\$WALCRYPT_ACTION\" != pause ] || { $command; }\n");
	return;
}
sub streams { wait_for('blue to stream', sub { IPC::Run::run([ $Walcrypt::ctl, @switchover, '--dry-run' ], '<', \undef, '>', \my $out, '2>', \my $err) }); return; }
sub is_back
{
	my ($what) = @_;
	is($red->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 'f', "$what: the old primary is the primary");
	ok(!-e $red->data_dir . '/standby.signal' && !-e $proxy->keystore . '/switchover.json', "$what: not fenced, and no switchover is midway");
	is($proxy->console('SHOW STATUS') =~ /^paused\|no$/m ? 1 : 0, 1, "$what: the proxy holds nobody");
	$writers->wait_for_commits(20);
	return;
}
my $began = $red->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

# before the fence: the primary runs on
my %behind = (
	'replay paused' => [ "$on_blue -c 'SELECT pg_wal_replay_pause()' >/dev/null", sub { $blue->safe_psql('postgres', 'SELECT pg_wal_replay_resume()') } ],
	'replay delayed' => [ "$on_blue -c \"ALTER SYSTEM SET recovery_min_apply_delay = '1h'\" -c 'SELECT pg_reload_conf()' >/dev/null", sub { $blue->safe_psql('postgres', 'ALTER SYSTEM RESET recovery_min_apply_delay'); $blue->reload; } ],
	'receiver stopped' => [ "kill -STOP \$($on_blue -c 'SELECT pid FROM pg_stat_wal_receiver')", sub { kill('CONT', $blue->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver')) } ],
);
for my $what (sort keys %behind) {
	my ($command, $undo) = @{ $behind{$what} };
	streams();
	hook($command);
	my ($rc, $out, $err) = ctl_output(@switchover, '--timeout', 5);
	is($rc, 1, "$what: it fails");
	like($err, qr/^ERROR:  given up, and everything put back: the standby's catching up did not happen within 5 s\nDETAIL:  "blue": it has \S+ (?:bytes|[kM]B) to replay\.\nHINT:  Begin again when "blue" keeps up/, "$what: the reason");
	like($out, qr/^  wait  for the standby's catching up: it has \S+ (?:bytes|[kM]B) to replay \(\d s of 5\)\n.*^  note  given up: .*^Everything is as before: "red" is the primary\.$/ms, "$what: it tells how far it is");
	is_back($what);
	$undo->();
}
is($red->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $began, 'it was never stopped');

# after the fence: replay pauses before the end of WAL is there; it is received, and not replayed
streams();
hook('true');
append_to_file("$tmp/pause", '');
my ($rc, $out, $err) = ctl_output(@switchover, '--timeout', 5);
is($rc, 1, 'paused behind the fence: it fails');
like($err, qr/^ERROR:  given up, and everything put back: the standby's replay up to the end did not happen within 5 s\nDETAIL:  replayed: the standby has flushed to (\S+) and replayed to \S+, not to \1\.\n/, '... the reason');
like($out, qr/^  wait  for the standby's replay up to the end: it has \S+ \S+ to replay \(\d s of 5\)\n  .*FAIL  the standby has flushed .*^Everything is as before: "red" is the primary\.$/ms, '... it tells how far it is');
is_back('paused behind the fence');
isnt($red->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $began, '... it was stopped, and started again');
is($blue->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', '... nothing was promoted');

# one that comes in time
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
streams();
unlink "$tmp/paused";    # before the one that waits for it
my $resumes = fork() // die;
if ($resumes == 0) {
	POSIX::_exit(system("until [ -s $tmp/paused ]; do sleep 0.1; done; sleep 3; $on_blue -c 'SELECT pg_wal_replay_resume()' >/dev/null"));
}
($rc, $out, $err) = ctl_output(@switchover, '--timeout', 60);
waitpid($resumes, 0);
is($rc, 0, 'one that comes is waited for') or diag($out, $err);
like($out, qr/^  wait  for the standby's replay up to the end: .*^  ok    the standby has flushed and replayed/ms, '... with a word now and then');
$writers->wait_for_commits(20, 'blue');
$writers->account($blue);
$red->_update_pid(0);
$blue->stop;
done_testing();
