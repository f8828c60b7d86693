# Goal: a physical slot goes on on the target only from where the target keeps WAL. A downstream that has been away for longer, and for which the old primary kept it, would find a gap
# there: that stops the plan, and it goes on when the downstream has caught up; or with --yes, and then the gap is there.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;

my ($proxy, %node) = red_and_blue("wal_retrieve_retry_interval = 100ms\nwal_keep_size = 0\nmin_wal_size = 32MB\nmax_wal_size = 32MB\n");
my ($red, $blue) = @node{qw(red blue)};
follow_later($proxy, $red);
my $archive = PostgreSQL::Test::Utils::tempdir();
my @switchover = ('switchover', '--config', $proxy->conf, '--to', 'blue');

# Segments, which blue does not need and has removed.
sub segments
{
	for (1 .. 4) { $red->safe_psql('postgres', 'SELECT pg_switch_wal()'); $red->safe_psql('postgres', 'CREATE TEMPORARY TABLE t (i int)'); }
	$red->safe_psql('postgres', 'CHECKPOINT');
	$red->wait_for_catchup('blue', 'replay', $red->lsn('flush'));
	$blue->safe_psql('postgres', 'CHECKPOINT');
	return;
}
# wal_keep_size, for the checkpointer, too
sub keep
{
	$blue->safe_psql('postgres', "ALTER SYSTEM SET wal_keep_size = $_[0]");
	$blue->restart;
	wait_for('blue to stream', sub { $proxy->console('SHOW STANDBYS') =~ /^blue\|blue\|[^|]*\|streams\|/m });
	return;
}
sub receive
{
	my ($from) = @_;
	my ($end, $said) = ($from->lsn('flush'), '');
	$from->safe_psql('postgres', 'SELECT pg_switch_wal()');    # it comes to the end only with what is behind it
	return IPC::Run::run([ 'pg_receivewal', '-n', '-S', 'archive', '-D', $archive, '--endpos', $end, '-d', $from->connstr ], '<', \undef, '>', '/dev/null', '2>', \$said) ? '' : $said;
}
sub catch_up { $red->safe_psql('postgres', "SELECT pg_replication_slot_advance('archive', pg_current_wal_flush_lsn())"); return; }
$red->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('archive', true)");
is(receive($red), '', 'an archive that streams by a slot');
segments();
my ($rc, $out, $err) = ctl_output(@switchover);
is($rc, 6, 'it is away, and the target has removed what it needs');
like($out, qr{^  FAIL  physical slot "archive" is at 0/[0-9A-F]+, and "blue" keeps WAL from 0/[0-9A-F]+ only$}m, '... which stops the plan') or diag($out);
like($out, qr/^        HINT:  .*--yes/m, '... with what can be done');
keep(1024);
($rc, $out, $err) = ctl_output(@switchover, '--dry-run');
is($rc, 6, 'what is removed is not kept, whatever wal_keep_size says now');
catch_up();
segments();
($rc, $out, $err) = ctl_output(@switchover, '--dry-run');
is($rc, 0, '... and with that wal_keep_size the plan holds') or diag($out);
keep(0);
catch_up();
($rc, $out, $err) = ctl_output(@switchover, '--dry-run');
is($rc, 0, '... and the plan holds') or diag($out);
segments();
($rc, $out, $err) = ctl_output(@switchover, '--yes', '--old', 'clear');
is($rc, 0, 'with --yes it goes without') or diag($out, $err);
like($out, qr{^  note  physical slot "archive" is at 0/[0-9A-F]+, and "blue" keeps WAL from 0/[0-9A-F]+ only}m, '... and says so');
$red->_update_pid(1);
$blue->safe_psql('postgres', 'CHECKPOINT');
like(receive($blue), qr/requested WAL segment \w+ has already been removed/, '... the gap is there');
$_->stop for $red, $blue;
done_testing();
