# The write pause of a switchover: from the last commit that the old primary acknowledged to the first on the new one, as clients see it that
# reconnect by a conninfo with both hosts; under a pgbench load, with synchronous replication. To and fro between a plain and an encrypted server.
use strict;
use warnings;
use Bench;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;
use Walcrypt::Writers;

my $scale = 50;
my ($proxy, %node) = red_and_blue("fsync = on\nsynchronous_commit = on\nshared_buffers = 256MB\nmax_wal_size = 8GB\ncheckpoint_timeout = 1h\nmax_connections = 50\nwal_keep_size = 2GB\nwal_retrieve_retry_interval = 200ms\n",
	fill => sub { $_[0]->command_ok([ 'pgbench', '-q', '-i', '-s', $scale, 'postgres' ], 'fill') });
follow_later($proxy, $node{red});

say_part("switchover: write pause as clients see it, pgbench -c 8, scale $scale, synchronous_commit = on, fsync on");
my ($from, $to, @pauses) = qw(red blue);
for my $round (1 .. $rounds) {
	wait_for("$to to stream", sub { $proxy->console('SHOW STANDBYS') =~ /^\Q$to\E\|\Q$to\E\|[^|]*\|streams\|\d+\|\Q$from\E\|/m });
	$node{$to}->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = ''");
	$node{$to}->reload;
	$node{$from}->safe_psql('postgres', "SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = '$to'");
	$node{$from}->reload;
	wait_for("$to to be synchronous", sub { ($node{$from}->psql('postgres', "SELECT sync_state FROM pg_stat_replication WHERE application_name = '$to'"))[1] eq 'sync' });
	my $writers = Walcrypt::Writers->new(2, @node{ $from, $to });
	my $load = fork() // die;
	if ($load == 0) {
		exec('sh', '-c', "while :; do pgbench -n -c 8 -j 2 -T 60 '" . $writers->conninfo . "' >/dev/null 2>&1; sleep 0.05; done") or POSIX::_exit(127);
	}
	$writers->start;
	$writers->wait_for_commits(500);
	my ($rc, $out, $err) = ctl_output('switchover', '--config', $proxy->conf, '--to', $to);
	$rc == 0 or die "switchover: $out$err";
	$writers->wait_for_commits(500, $to);
	$writers->stop;
	kill('KILL', $load);
	waitpid($load, 0);
	my ($lost, $twice) = $writers->check($node{$to});
	$lost + $twice == 0 or die "$lost commits are lost, $twice are there twice";
	my $pause = $writers->pause($from, $to);
	push @pauses, $pause;
	say_line('  %-5s to %-5s %.3f s', $from, $to, $pause);
	$node{$from}->_update_pid(0);
	$node{$from}->start;
	($from, $to) = ($to, $from);
}
say_line('  median %.3f s, most %.3f s (mark: 1.5)', median(@pauses), (sort { $a <=> $b } @pauses)[-1]);
figure('write pause, s', median(@pauses), 1.5);
system('pg_ctl -D ' . $_->data_dir . ' -m immediate stop >/dev/null 2>&1') for values %node;
$_->_update_pid(0) for values %node;
ok(1, 'measured');
done_testing();
