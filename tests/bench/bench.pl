# The measurements of `make bench`; see run.
use strict;
use warnings;
use File::Temp ();
use IO::Handle;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use Walcrypt;

my $rounds       = $ENV{BENCH_ROUNDS} // 5;
my $gigabytes    = $ENV{BENCH_GB} // 2;
my $tpcb_seconds = $ENV{BENCH_TPCB_SECONDS} // 30;
my %only         = map { $_ => 1 } split(' ', $ENV{BENCH_ONLY} // 'cipher backup stream tpcb');
my $tmp          = $PostgreSQL::Test::Utils::tmp_check;

open(my $report, '>>', $ENV{BENCH_REPORT}) or die;
$report->autoflush(1);
sub say_line { printf $report "%s\n", sprintf(shift, @_); return; }

sub median { my @s = sort { $a <=> $b } @_; return @s % 2 ? $s[ $#s / 2 ] : ($s[ @s / 2 - 1 ] + $s[ @s / 2 ]) / 2; }

# Interleaved rounds over named sides; each code returns a figure. Prints and returns the medians.
sub compare
{
	my ($unit, $sides, $code) = @_;
	my %figures;
	for my $round (0 .. $rounds) {    # round 0 warms up and is not counted
		# nobody is always the one who comes after the same
		for my $n (0 .. $#$sides) {
			my $side = $sides->[ ($n + $round) % @$sides ];
			my $figure = $code->($side);
			push @{ $figures{$side} }, $figure if $round > 0;
		}
	}
	my %median = map { $_ => median(@{ $figures{$_} }) } @$sides;
	for my $side (@$sides) {
		my @s = sort { $a <=> $b } @{ $figures{$side} };
		say_line('  %-22s median %10.3f %s   (least %.3f, most %.3f, %d runs)', $side, $median{$side}, $unit, $s[0], $s[-1], scalar @s);
	}
	return \%median;
}

sub timed
{
	my @command = @_;
	my $start = time();
	system(@command) == 0 or die "@command failed";
	return time() - $start;
}

# seconds of processor time that openssl's own XTS needs for one 8 KiB page
sub openssl_page_seconds
{
	my ($cipher) = @_;
	my ($last) = grep { /^AES/i } split(/\n/, `openssl speed -evp $cipher -bytes 8192 -seconds 2 2>/dev/null`);
	my ($kb) = $last =~ /([0-9.]+)k/ or die "openssl speed: $last";
	return 8192 / ($kb * 1000);
}

my ($cpu) = slurp_from('/proc/cpuinfo') =~ /^model name\s*:\s*(.*)$/m;
my $vaes = slurp_from('/proc/cpuinfo') =~ /\bvaes\b/ ? 'has VAES' : 'no VAES';
chomp(my $cores = `nproc`);
chomp(my $openssl = `openssl version`);
my $xts = openssl_page_seconds('aes-256-xts');
say_line('machine: %s (%s), %s cores; %s (its XTS does not use VAES before 3.5)', $cpu, $vaes, $cores, $openssl);
say_line('floor: openssl speed -evp aes-256-xts -bytes 8192: %.2f GB/s, %.2f us a page', 8192 / $xts / 1e9, $xts * 1e6);

if ($only{cipher}) {
	say_line('');
	say_line('page and WAL-page cipher, 8 KiB pages, one core');
	my %figures;
	for my $round (1 .. $rounds) {
		push @{ $figures{openssl} }, 8192 / openssl_page_seconds('aes-256-xts') / 1e9;
		for (split(/\n/, `$ENV{WALCRYPT_PREFIX}/tests/cipher_bench`)) {
			push @{ $figures{"$1"} }, $2 if /^(\S+)\s+([0-9.]+) GB\/s/;
		}
	}
	my $yard = median(@{ $figures{openssl} });
	for my $what (sort keys %figures) {
		my $gb = median(@{ $figures{$what} });
		say_line('  %-22s %6.2f GB/s   ratio to openssl speed %.3f', $what, $gb, $gb / $yard);
	}
}

my ($red, $proxy, $haproxy, $haproxy_port);
if ($only{backup} || $only{stream}) {
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
	say_line('');
	$red->command_ok([ 'pgbench', '-q', '-i', '-s', $scale, 'postgres' ], 'fill');
	$red->safe_psql('postgres', 'CHECKPOINT');
	my $mb = $red->safe_psql('postgres', 'SELECT sum(pg_database_size(oid)) / 1024 / 1024 FROM pg_database');
	say_line('base backup of %.2f GB, tar to /dev/null, CRC32C manifest', $mb / 1024);
	my $tar = compare('s', [qw(direct haproxy walcrypt)], sub {
		timed('sh', '-c', "pg_basebackup -Ft -X none -D - --checkpoint=fast -d '" . side_connstr($_[0]) . "' 2>>$tmp/bench.err >/dev/null");
	});
	say_line('  ratio to haproxy %.3f, to direct %.3f; resident memory of the proxy at its highest %d MiB',
		$tar->{walcrypt} / $tar->{haproxy}, $tar->{walcrypt} / $tar->{direct},
		(slurp_from('/proc/' . $proxy->pid . '/status') =~ /VmHWM:\s+(\d+)/)[0] / 1024);
	my $floor = $mb * 128 * $xts;
	say_line('  floor: %d pages x openssl = %.3f s; walcrypt is %.3f s above haproxy', $mb * 128, $floor, $tar->{walcrypt} - $tar->{haproxy});
	say_line('');
	say_line('base backup of %.2f GB, plain format to disk, --no-sync', $mb / 1024);
	my $plain = compare('s', [qw(direct haproxy walcrypt)], sub {
		my $t = timed('sh', '-c', "pg_basebackup --no-sync -X none -D $tmp/bk --checkpoint=fast -d '" . side_connstr($_[0]) . "' 2>>$tmp/bench.err");
		system('rm', '-rf', "$tmp/bk");
		return $t;
	});
	say_line('  ratio to haproxy %.3f, to direct %.3f', $plain->{walcrypt} / $plain->{haproxy}, $plain->{walcrypt} / $plain->{direct});
}

if ($only{stream}) {
	say_line('');
	$red->safe_psql('postgres', "SELECT pg_switch_wal()");
	my $start = $red->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
	$red->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('bench_$_', true)") for qw(direct haproxy walcrypt);
	# a WAL-heavy load: rows with full-page images, and large records
	$red->safe_psql('postgres', "CREATE TABLE heavy AS SELECT i, repeat(md5(i::text), 8) AS t FROM generate_series(1, 2000000) i;
		UPDATE heavy SET i = i + 1; SELECT pg_switch_wal();");
	my $end = $red->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
	my $mb = $red->safe_psql('postgres', "SELECT ('$end'::pg_lsn - '$start'::pg_lsn) / 1024 / 1024");
	say_line('replication: pg_receivewal of %.2f GB of WAL, --no-sync', $mb / 1024);
	my $n = 0;
	# the receiver's disk is not what is measured
	my $sink = (split(' ', `df --output=avail -BM /dev/shm | tail -n 1`))[0] =~ /(\d+)/ && $1 > 2 * $mb ? File::Temp::tempdir('walcrypt_XXXXXX', DIR => '/dev/shm', CLEANUP => 1) : $tmp;
	my $stream = compare('s', [qw(direct haproxy walcrypt)], sub {
		my ($side) = @_;
		my $dir = "$sink/wal_" . $n++;
		mkdir $dir;
		# an empty directory and a slot: pg_receivewal starts at the slot's restart_lsn
		$red->safe_psql('postgres', "SELECT pg_drop_replication_slot('bench_run')") if $red->safe_psql('postgres', "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'bench_run'");
		$red->safe_psql('postgres', "SELECT pg_copy_physical_replication_slot('bench_$side', 'bench_run')");
		my $t = timed('sh', '-c', "pg_receivewal --no-sync --no-loop -S bench_run -D $dir --endpos=$end -d '" . side_connstr($side) . "' 2>>$tmp/bench.err");
		my @files = glob("$dir/*");
		die "pg_receivewal fetched nothing by $side" unless @files >= $mb / 16 - 1;
		system('rm', '-rf', $dir);
		return $t;
	});
	say_line('  ratio to haproxy %.3f, to direct %.3f; floor: %.3f s for the pages by openssl',
		$stream->{walcrypt} / $stream->{haproxy}, $stream->{walcrypt} / $stream->{direct}, $mb * 128 * $xts);
	$red->safe_psql('postgres', 'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
}
$proxy->stop if $proxy;
$red->stop if $red;

if ($only{tpcb}) {
	say_line('');
	my $kek = Walcrypt::kek_file("$tmp/tpcb_kek");
	my %node = (plain => Walcrypt::Node->new('plain'), encrypted => Walcrypt::Node->new('encrypted'));
	$node{plain}->init(allows_streaming => 1, extra => ['-k']);
	$node{encrypted}->init_encrypted("file:$kek", allows_streaming => 1);
	for my $node (values %node) {
		$node->append_conf('postgresql.conf', "shared_buffers = 256MB\nfsync = on\nmax_wal_size = 4GB\nmax_connections = 50\nlog_statement = none\n"
			. "track_wal_io_timing = on\n");
		$node->start;
		$node->command_ok([ 'pgbench', '-q', '-i', '-s', 50, 'postgres' ], 'fill');
		$node->safe_psql('postgres', 'CHECKPOINT');
	}
	say_line('pgbench TPC-B, scale 50, 8 clients, %d s a run, fsync on, both servers up', $tpcb_seconds);
	my $counts = "SELECT (SELECT sum(blks_read) FROM pg_stat_database) + (SELECT buffers_checkpoint + buffers_clean + buffers_backend FROM pg_stat_bgwriter)"
		. " + (SELECT greatest(wal_write, wal_bytes / 8192) FROM pg_stat_wal)";
	my ($pages, $seconds) = (0, 0);
	my $tpcb = compare('tps', [qw(plain encrypted)], sub {
		my ($side) = @_;
		my $before = $node{$side}->safe_psql('postgres', $counts);
		my %env = $node{$side}->_get_env;
		local %ENV = %env;
		my ($tps) = `pgbench -n -c 8 -j 2 -T $tpcb_seconds postgres 2>/dev/null` =~ /^tps = ([0-9.]+)/m or die 'pgbench';
		if ($side eq 'encrypted') {
			sleep(1);
			$pages += $node{$side}->safe_psql('postgres', $counts) - $before;
			$seconds += $tpcb_seconds;
		}
		return $tps;
	});
	say_line('  ratio encrypted to plain %.3f', $tpcb->{encrypted} / $tpcb->{plain});
	say_line('  floor: %.0f pages a second x openssl = %.2f %% of one core; measured loss %.2f %% of the rate', $pages / $seconds,
		100 * $pages / $seconds * $xts, 100 * (1 - $tpcb->{encrypted} / $tpcb->{plain}));
	$_->stop for values %node;
}
ok(1, 'measured');
done_testing();
