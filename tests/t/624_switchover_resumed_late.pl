# Goal: what was proven holds only as long as the old primary stays as it was. A switchover that was stopped between its proof and the promotion is not resumed when the old
# primary was started again in between as a primary, whether it still runs or was stopped cleanly: nothing is promoted, and what it acknowledged meanwhile is there
# after --abort. One that is just as it was is promoted from, also when it cannot be asked and --yes says that it is down.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;

my ($proxy, %node) = red_and_blue("wal_retrieve_retry_interval = 100ms\nwal_keep_size = 128MB\n");
my ($red, $blue) = @node{qw(red blue)};
my @switchover = ('switchover', '--config', $proxy->conf);
my $logbook = $proxy->keystore . '/switchover.json';
my ($rc, $out, $err);
$red->safe_psql('postgres', 'CREATE TABLE t (i int)');

sub rewrite { my ($file, $from, $to) = @_; my $text = slurp_file($file); $text =~ s/$from/$to/ or die "no $from in $file"; unlink $file; append_to_file($file, $text); return; }
# Stopped midway: the standby cannot be told to promote itself. With $state, as if a crash had come before it was asked.
sub cut_off
{
	my ($state) = @_;
	wait_for('blue to stream', sub { IPC::Run::run([ $Walcrypt::ctl, @switchover, '--to', 'blue', '--dry-run' ], '<', \undef, '>', \my $o, '2>', \my $e) });
	chmod 0500, $blue->data_dir;
	($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue');
	is($rc, 7, "$state: stopped midway") or diag($out, $err);
	chmod 0700, $blue->data_dir;
	like(slurp_file($logbook), qr/"state": "promoting"/, "$state: after the proof");
	rewrite($logbook, '"state": "promoting"', '"state": "proven"') if $state eq 'proven';
	$red->_update_pid(0);
	return;
}
my $n = 0;
sub write_on_red
{
	unlink $red->data_dir . '/standby.signal';
	$red->start;
	$red->safe_psql('postgres', 'INSERT INTO t VALUES (1)');
	$n++;
	return;
}
sub refused
{
	my ($what) = @_;
	($rc, $out, $err) = ctl_output(@switchover, '--resume');
	is($rc, 7, "$what: not resumed") or diag($out, $err);
	like($err, qr/^ERROR:  "red" is not as it was when the proof was made, so nothing is promoted\nDETAIL:  /m, "$what: which is said");
	is($blue->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', "$what: nothing is promoted");
	return;
}
sub put_back
{
	my ($what) = @_;
	($rc, $out, $err) = ctl_output(@switchover, '--abort');
	is($rc, 0, "$what: put back") or diag($out, $err);
	$red->_update_pid(1);
	is($red->safe_psql('postgres', 'SELECT pg_is_in_recovery(), count(*) FROM t'), "f|$n", "$what: with every row");
	return;
}

cut_off('proven');
write_on_red();
refused('it runs');
put_back('it runs');

cut_off('promoting');
write_on_red();
$red->stop;
refused('it ran and was stopped');
$blue->stop;
put_back('it ran and was stopped');
$blue->start;

# its machine is away
cut_off('promoting');
my $control = $red->data_dir . '/global/pg_control';
rename($control, "$control.away") or die;
($rc, $out, $err) = ctl_output(@switchover, '--resume');
is($rc, 7, 'it cannot be asked: not resumed');
like($err, qr/HINT:  .*--resume --yes/, '... and what can be done is said') or diag($err);
($rc, $out, $err) = ctl_output(@switchover, '--resume', '--yes');
is($rc, 0, 'it goes on when that is known') or diag($out, $err);
is($blue->safe_psql('postgres', 'SELECT pg_is_in_recovery(), count(*) FROM t'), "f|$n", 'the standby is the primary, with every row');
$blue->stop;
done_testing();
