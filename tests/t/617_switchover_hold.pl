# Goal: what a switchover holds at the proxy stays held while it lasts: the proxy is killed, stopped or away for a while, and started again, in each step that
# waits for something (the hook, the standby's catching up, the old primary's stop, the promotion), and walcrypt-ctl says PAUSE again
# by itself; who comes meanwhile is held, and goes on with the new primary.
use strict;
use warnings;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;
use Walcrypt::Wire;
use Walcrypt::Writers;

my $tmp = PostgreSQL::Test::Utils::tempdir();
my ($proxy, %node) = red_and_blue("wal_retrieve_retry_interval = 100ms\nwal_keep_size = 256MB\nlog_statement = none\n",
	settings => { switchover_hook => "sh $tmp/hook" }, red => { control => "sh $tmp/control %a" }, others => { green => { keyset => 'green' } },
	blue_conf => "recovery_end_command = ': >$tmp/ending; until [ -e $tmp/end.go ]; do sleep 0.05; done'\n");
my ($red, $blue) = @node{qw(red blue)};
my $writers = Walcrypt::Writers->new(2, $red, $blue);
$writers->start;
append_to_file("$tmp/hook", "[ \"\$WALCRYPT_ACTION\" != pause ] || { : >$tmp/hooked; until [ -e $tmp/hook.go ]; do sleep 0.05; done; }\n");
append_to_file("$tmp/control", <<"END");
D=@{[$red->data_dir]}
if [ \$1 = start ]; then pg_ctl -D \$D -l @{[$red->logfile]} -w restart >/dev/null 2>&1; exit; fi
: >$tmp/stopping; until [ -e $tmp/stop.go ]; do sleep 0.05; done
[ ! -e \$D/postmaster.pid ] || pg_ctl -D \$D -m fast -w stop >/dev/null
END

sub paused { return $proxy->console('SHOW STATUS') =~ /^paused\|(.*)$/m ? $1 : 'the proxy is not there'; }
my $clients = 0;
# A client that comes now; held: it has been let in, and told nothing more.
sub comes
{
	my ($what) = @_;
	my $client = Walcrypt::Wire->connect($proxy);
	my $name = 'client' . ++$clients;
	$client->startup(user => 'green', replication => 'true', application_name => $name);
	wait_for("$what: who comes is held", sub { $proxy->console('SHOW SESSIONS') =~ /\|green\|$name\|local\|held\|/ });
	pass("$what: who comes is held");
	return $client;
}
# The proxy goes, and comes back; $how: kill9 or stop; for some seconds.
sub restarts
{
	my ($what, $target, $how, $seconds) = @_;
	is(paused(), "all but $target", "$what: held");
	$proxy->$how;
	sleep($seconds) if $seconds;
	$proxy->start;
	wait_for("$what: the pause", sub { paused() eq "all but $target" });
	pass("$what: held again by itself");
	return;
}
sub begin
{
	my (@args) = @_;
	my %tool = (out => '', err => '');
	$tool{run} = IPC::Run::start([ $Walcrypt::ctl, @args, '--config', $proxy->conf, '--timeout', 120 ], '<', \undef, '>', \$tool{out}, '2>', \$tool{err});
	return \%tool;
}
sub reached { my ($tool, $what, $there) = @_; wait_for($what, sub { $tool->{run}->pump_nb if $tool->{run}->pumpable; $there->() || (!$tool->{run}->pumpable && die "it ended: $tool->{out}$tool->{err}") }); return; }

$proxy->wait_for_stream('blue', 'red');
my $tool = begin('switchover', '--to', 'blue');
reached($tool, 'the hook', sub { -e "$tmp/hooked" });
restarts('in the hook, killed', 'blue', 'kill9', 0);
restarts('in the hook, stopped in good order', 'blue', 'stop', 0);
restarts('in the hook, away for a while', 'blue', 'kill9', 2);
comes('in the hook');
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$writers->wait_for_commits(20);
append_to_file("$tmp/hook.go", '');
reached($tool, 'the wait for the standby', sub { $tool->{out} =~ /^  wait  for the standby's catching up/m });
restarts('while the standby catches up', 'blue', 'kill9', 0);
restarts('while the standby catches up, away for a while', 'blue', 'kill9', 2);
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
reached($tool, 'the stop', sub { -e "$tmp/stopping" });
restarts('while the old primary stops', 'blue', 'kill9', 0);
$proxy->wait_for_stream('blue', 'red');
append_to_file("$tmp/stop.go", '');
reached($tool, 'the promotion', sub { -e "$tmp/ending" });
restarts('in the promotion', 'blue', 'kill9', 0);
my $late = comes('in the promotion');
append_to_file("$tmp/end.go", '');
$tool->{run}->finish;
is($tool->{run}->full_result(0), 0, 'the switchover') or diag($tool->{out}, $tool->{err});
is(scalar(() = $tool->{out} =~ /^  note  the connection to the proxy was lost and is back: its new sessions are held again$/mg), 7, '... which says so');
is(paused(), 'no', '... and holds nobody at its end');
$late->until('ZE');
$late->send('Q', "IDENTIFY_SYSTEM\0");
is(($late->until('ZE'))[0], 'TDCZ', '... who was held goes on');
$red->_update_pid(0);
$writers->wait_for_commits(20, 'blue');

$writers->account($blue);
$blue->stop;
done_testing();
