# What a synchronous commit waits for: a plain standby through HAProxy, or an encrypted one through walcrypt. One of them runs at a time.
use strict;
use warnings;
use Bench;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Ways;

my $seconds = $ENV{BENCH_TPCB_SECONDS} // 30;
ways_start(conf => "synchronous_commit = remote_apply\nautovacuum = off\ncheckpoint_timeout = 1h\nmax_connections = 50\nwal_keep_size = 4GB\n");
$red->command_ok([ 'pgbench', '-q', '-i', '-s', 10, 'postgres' ], 'fill');
$red->safe_psql('postgres', 'CHECKPOINT');
my %standby = map { $_ => Walcrypt::Node->new("by_$_") } qw(haproxy walcrypt);
for my $way (keys %standby) {
	my $node = $standby{$way};
	mkdir $node->backup_dir;
	mkdir $node->archive_dir;
	system_or_bail('pg_basebackup', '-D', $node->data_dir, '-d', ways_connstr($way), '--checkpoint=fast', '--no-sync', '-R');
	$node->append_conf('postgresql.auto.conf', 'port = ' . $node->port . "\nlisten_addresses = ''\nunix_socket_directories = '" . $node->host . "'\n"
		. "primary_conninfo = '" . ways_connstr($way) . " application_name=$way'\n");
	$node->use_layer($proxy->kek_uri) if $way eq 'walcrypt';
}
my $running = '';

# Only this way's standby runs, it has caught up, and commits wait for it.
sub only_standby
{
	my ($way) = @_;
	return if $running eq $way;
	$standby{$running}->stop if $running;
	$standby{ $running = $way }->start;
	$red->safe_psql('postgres', "SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = '$way'");
	$red->reload;
	wait_for("$way to be synchronous", sub { ($red->psql('postgres', "SELECT sync_state FROM pg_stat_replication WHERE application_name = '$way'"))[1] eq 'sync' });
	$red->wait_for_catchup($way);
	return;
}

for my $clients (1, 16) {
	say_part("synchronous commit, remote_apply: pgbench -c $clients, scale 10, $seconds s a run, fsync on");
	my $m = compare('ms', [qw(haproxy walcrypt)], sub {
		only_standby($_[0]);
		my %env = $red->_get_env;
		local %ENV = %env;
		my ($ms) = `pgbench -n -c $clients -j 2 -T $seconds postgres 2>/dev/null` =~ /^latency average = ([0-9.]+) ms/m or die 'pgbench';
		return $ms;
	});
	say_line('  ratio to haproxy %.3f', $m->{walcrypt} / $m->{haproxy});
	figure('latency, walcrypt/haproxy', $m->{walcrypt} / $m->{haproxy}, 1.10);
}
$red->safe_psql('postgres', "SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = ''");
$standby{$running}->stop;
ways_stop();
ok(1, 'measured');
done_testing();
