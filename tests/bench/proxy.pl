# The proxy against HAProxy and against no proxy at all: base backup, replication.
use strict;
use warnings;
use Bench;
use File::Temp ();
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $gigabytes = $ENV{BENCH_GB} // 2;
my %only      = map { $_ => 1 } split(' ', $ENV{BENCH_ONLY} // 'backup stream');
my ($red, $proxy, $haproxy, $haproxy_port);
{
	$red = Walcrypt::Node->new('red');
	$red->init(allows_streaming => 1, extra => ['-k']);
	# HAProxy and the direct way go over TCP, so everybody does
	$red->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\nshared_buffers = 256MB\nmax_wal_size = 8GB\nfsync = on\n"
		. "log_statement = none\nwal_keep_size = 4GB\n");
	append_to_file($red->data_dir . '/pg_hba.conf', "host all,replication all 127.0.0.1/32 trust\n");
	$red->start;
	my $me = (getpwuid($<))[0];
	$proxy = Walcrypt::Proxy->new(nodes => {
		red  => { conninfo => 'host=127.0.0.1 port=' . $red->port . " user=$me" },
		blue => { keyset => 'blue' } });
	$proxy->key_init('blue');
	$proxy->start;

	$haproxy_port = PostgreSQL::Test::Cluster::get_free_port();
	open(my $conf, '>', "$tmp/haproxy.cfg") or die;
	print $conf "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
		. "listen pg\n  bind 127.0.0.1:$haproxy_port\n  server red 127.0.0.1:" . $red->port . "\n";
	close $conf;
	$haproxy = fork() // die;
	exec('haproxy', '-db', '-f', "$tmp/haproxy.cfg") if $haproxy == 0;
	wait_for('haproxy', sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $haproxy_port) });
}
END { my $s = $?; kill('TERM', $haproxy) if $haproxy; $? = $s; }

sub side_connstr
{
	my ($side) = @_;
	my $me = (getpwuid($<))[0];
	return 'host=127.0.0.1 port=' . $red->port . " user=$me" if $side eq 'direct';
	return "host=127.0.0.1 port=$haproxy_port user=$me" if $side eq 'haproxy';
	return 'host=127.0.0.1 port=' . $proxy->port . ' user=blue';
}

if ($only{backup}) {
	my $scale = int($gigabytes * 1024 / 15) + 1;
	$red->command_ok([ 'pgbench', '-q', '-i', '-s', $scale, 'postgres' ], 'fill');
	$red->safe_psql('postgres', 'CHECKPOINT');
	my $mb = $red->safe_psql('postgres', 'SELECT sum(pg_database_size(oid)) / 1024 / 1024 FROM pg_database');
	say_part('base backup of %.2f GB, tar to /dev/null, CRC32C manifest', $mb / 1024);
	my $tar = compare('s', [qw(direct haproxy walcrypt)], sub {
		timed('sh', '-c', "pg_basebackup -Ft -X none -D - --checkpoint=fast -d '" . side_connstr($_[0]) . "' 2>>$tmp/bench.err >/dev/null");
	});
	say_line('  ratio to haproxy %.3f, to direct %.3f; resident memory of the proxy at its highest %d MiB',
		$tar->{walcrypt} / $tar->{haproxy}, $tar->{walcrypt} / $tar->{direct},
		(slurp_from('/proc/' . $proxy->pid . '/status') =~ /VmHWM:\s+(\d+)/)[0] / 1024);
	my $floor = $mb * 128 * page_seconds();
	say_line('  floor: %d pages x openssl = %.3f s; walcrypt is %.3f s above haproxy', $mb * 128, $floor, $tar->{walcrypt} - $tar->{haproxy});
	figure('time, walcrypt/HAProxy', $tar->{walcrypt} / $tar->{haproxy}, 1.25);
	say_part('base backup of %.2f GB, plain format to disk, --no-sync', $mb / 1024);
	my $plain = compare('s', [qw(direct haproxy walcrypt)], sub {
		my $t = timed('sh', '-c', "pg_basebackup --no-sync -X none -D $tmp/bk --checkpoint=fast -d '" . side_connstr($_[0]) . "' 2>>$tmp/bench.err");
		system('rm', '-rf', "$tmp/bk");
		return $t;
	});
	say_line('  ratio to haproxy %.3f, to direct %.3f', $plain->{walcrypt} / $plain->{haproxy}, $plain->{walcrypt} / $plain->{direct});
	figure('time, walcrypt/HAProxy', $plain->{walcrypt} / $plain->{haproxy}, 1.25);
}

if ($only{stream}) {
	$red->safe_psql('postgres', "SELECT pg_switch_wal()");
	my $start = $red->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
	$red->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('bench_$_', true)") for qw(direct haproxy walcrypt);
	# a WAL-heavy load: rows with full-page images, and large records
	$red->safe_psql('postgres', "CREATE TABLE heavy AS SELECT i, repeat(md5(i::text), 8) AS t FROM generate_series(1, 2000000) i;
		UPDATE heavy SET i = i + 1; SELECT pg_switch_wal();");
	my $end = $red->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
	my $mb = $red->safe_psql('postgres', "SELECT ('$end'::pg_lsn - '$start'::pg_lsn) / 1024 / 1024");
	say_part('replication: pg_receivewal of %.2f GB of WAL, --no-sync', $mb / 1024);
	my $n = 0;
	my %cpu;
	# the receiver's disk is not what is measured
	my $sink = (split(' ', `df --output=avail -BM /dev/shm | tail -n 1`))[0] =~ /(\d+)/ && $1 > 2 * $mb ? File::Temp::tempdir('walcrypt_XXXXXX', DIR => '/dev/shm', CLEANUP => 1) : $tmp;
	my $stream = compare('s', [qw(direct haproxy walcrypt)], sub {
		my ($side) = @_;
		my $dir = "$sink/wal_" . $n++;
		mkdir $dir;
		# an empty directory and a slot: pg_receivewal starts at the slot's restart_lsn
		$red->safe_psql('postgres', "SELECT pg_drop_replication_slot('bench_run')") if $red->safe_psql('postgres', "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'bench_run'");
		$red->safe_psql('postgres', "SELECT pg_copy_physical_replication_slot('bench_$side', 'bench_run')");
		my $pid = { haproxy => $haproxy, walcrypt => $proxy->pid }->{$side};
		my $cpu = defined $pid ? cpu_seconds($pid) : 0;
		my $t = timed('sh', '-c', "pg_receivewal --no-sync --no-loop -S bench_run -D $dir --endpos=$end -d '" . side_connstr($side) . "' 2>>$tmp/bench.err");
		push @{ $cpu{$side} }, (cpu_seconds($pid) - $cpu) / $mb * 1024 if defined $pid;
		my @files = glob("$dir/*");
		die "pg_receivewal fetched nothing by $side" unless @files >= $mb / 16 - 1;
		system('rm', '-rf', $dir);
		return $t;
	});
	say_line('  processor seconds for a GB, medians: haproxy %.2f, walcrypt %.2f', map { median(@{ $cpu{$_} }[ 1 .. $rounds ]) } qw(haproxy walcrypt));
	say_line('  ratio to haproxy %.3f, to direct %.3f; floor: %.3f s for the pages by openssl',
		$stream->{walcrypt} / $stream->{haproxy}, $stream->{walcrypt} / $stream->{direct}, $mb * 128 * page_seconds());
	figure('time, walcrypt/HAProxy', $stream->{walcrypt} / $stream->{haproxy});
	$red->safe_psql('postgres', 'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
}
$proxy->stop;
$red->stop;

ok(1, 'measured');
done_testing();
