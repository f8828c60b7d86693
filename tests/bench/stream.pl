# Replication through the proxy: a receiver that catches up.
use strict;
use warnings;
use Bench;
use File::Temp ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Ways;

ways_start(conf => "wal_keep_size = 4GB\n");
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
my ($room) = (split(' ', `df --output=avail -BM /dev/shm | tail -n 1`))[0] =~ /(\d+)/;
my $sink = $room > 2 * $mb ? File::Temp::tempdir('walcrypt_XXXXXX', DIR => '/dev/shm', CLEANUP => 1) : $tmp;
my $m = compare('s', [qw(direct haproxy walcrypt)], sub {
	my ($way) = @_;
	my $dir = "$sink/wal_" . $n++;
	mkdir $dir;
	# an empty directory and a slot: pg_receivewal starts at the slot's restart_lsn
	$red->safe_psql('postgres', "SELECT pg_drop_replication_slot('bench_run')") if $red->safe_psql('postgres', "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'bench_run'");
	$red->safe_psql('postgres', "SELECT pg_copy_physical_replication_slot('bench_$way', 'bench_run')");
	my $pid = ways_pid($way);
	my $cpu = defined $pid ? cpu_seconds($pid) : 0;
	my $t = timed('sh', '-c', "pg_receivewal --no-sync --no-loop -S bench_run -D $dir --endpos=$end -d '" . ways_connstr($way) . "' 2>>$tmp/bench.err");
	push @{ $cpu{$way} }, (cpu_seconds($pid) - $cpu) / $mb * 1024 if defined $pid;
	my @files = glob("$dir/*");
	die "pg_receivewal fetched nothing by $way" unless @files >= $mb / 16 - 1;
	system('rm', '-rf', $dir);
	return $t;
});
my %s = map { $_ => median(@{ $cpu{$_} }[ 1 .. $rounds ]) } qw(haproxy walcrypt);
my ($cipher, $check) = (cipher_page_seconds('aes-256-ctr') * 131072, crc32c_seconds());
say_line('  rate, walcrypt to haproxy %.3f, to direct %.3f', $m->{haproxy} / $m->{walcrypt}, $m->{direct} / $m->{walcrypt});
say_line('  processor seconds for a GB: haproxy %.2f, walcrypt %.2f; floor: cipher %.2f + CRC32C %.2f = %.2f; (walcrypt - haproxy)/floor %.2f',
	$s{haproxy}, $s{walcrypt}, $cipher, $check, $cipher + $check, ($s{walcrypt} - $s{haproxy}) / ($cipher + $check));
figure('rate, walcrypt/haproxy', $m->{haproxy} / $m->{walcrypt}, 0.9);
figure('processor time, (walcrypt - haproxy)/floor', ($s{walcrypt} - $s{haproxy}) / ($cipher + $check), 1.5);
$red->safe_psql('postgres', 'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
ways_stop();
ok(1, 'measured');
done_testing();
