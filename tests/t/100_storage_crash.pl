# A stock server on an encrypted directory: what it stores is found nowhere in clear, and it survives kill -9 under load, of the
# whole server and of one backend (a crash-restart within the postmaster).
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use Walcrypt;

my $marker = 'MARKER-storage-51c0aa';
my $fill = "CREATE TABLE letters (id int PRIMARY KEY, body text);
	INSERT INTO letters SELECT i, '$marker ' || i FROM generate_series(1, 20000) i;
	CREATE INDEX ON letters (body); CHECKPOINT";

# Rows sorted and hashed on disk: the files below pgsql_tmp while a cursor holds them open, found from outside.
sub spill
{
	my ($node) = @_;
	my $session = $node->background_psql('postgres');
	$session->query_safe(q{SET work_mem = '64kB'; SET enable_indexscan = off; SET enable_bitmapscan = off; BEGIN;
		DECLARE c CURSOR FOR SELECT body || body FROM letters ORDER BY md5(body); FETCH 10 FROM c});
	my $dir = $node->data_dir . '/base/pgsql_tmp';
	my @files = grep { -s } glob("$dir/*");
	my @found = files_containing($marker, $dir);
	$session->query_safe('MOVE ALL FROM c; COMMIT');
	$session->quit;
	my $sorted = $node->safe_psql('postgres', q{SET work_mem = '64kB'; SET enable_indexscan = off;
		SELECT md5(string_agg(body, ',')) FROM (SELECT body FROM letters ORDER BY md5(body)) s});
	return (scalar @files, scalar @found, $sorted);
}

sub generations
{
	my ($node) = @_;
	my %seen;
	for my $path (glob($node->data_dir . '/pg_wal/*')) {
		next unless $path =~ m{/[0-9A-F]{24}$};
		open(my $f, '<:raw', $path) or die;
		while (read($f, my $page, 8192)) {
			my ($magic, $info, $gen) = unpack('S<S<x16L<', $page);
			$seen{$gen}++ if $magic >> 8 == 0xD1 && $info & 0x8000;
		}
	}
	return %seen;
}

my $plain = Walcrypt::Node->new('plain');
$plain->init(extra => ['-k']);
$plain->start;
$plain->safe_psql('postgres', $fill);

my $node = Walcrypt::Node->new('sealed');
my $kek = kek_file("$PostgreSQL::Test::Utils::tmp_check/kek_100");
$node->init_encrypted("file:$kek", extra => ['-k']);
$node->append_conf('postgresql.conf', "restart_after_crash = on\nlog_statement = none\n");
$node->start;
$node->safe_psql('postgres', $fill);

cmp_ok(scalar files_containing($marker, $plain->data_dir . '/base'), '>', 0, 'the search finds the marker in a stock server\'s tables');
cmp_ok(scalar files_containing($marker, $plain->data_dir . '/pg_wal'), '>', 0, 'and in its WAL');
is(join(' ', files_containing($marker, $node->data_dir)), '', 'and nowhere in the encrypted directory');
my %wal = encrypted_wal_files($node->data_dir . '/pg_wal');
is(join(' ', grep { $wal{$_} !~ /^(encrypted|empty)$/ } keys %wal), '', 'all WAL is encrypted');

my ($files, $found, $sorted) = spill($plain);
ok($files > 0 && $found > 0, 'a stock server spills the marker to temporary files');
my ($sealed_files, $sealed_found, $sealed_sorted) = spill($node);
cmp_ok($sealed_files, '>', 0, 'the encrypted one spills too');
is($sealed_found, 0, 'without the marker in them');
is($sealed_sorted, $sorted, 'and reads the same rows back');
$plain->stop;

# shared filesets: a parallel hash join in batches
my $parallel = q{SET work_mem = '64kB'; SET hash_mem_multiplier = 1; SET min_parallel_table_scan_size = 0;
	SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET enable_mergejoin = off; SET enable_nestloop = off;};
my $join = 'SELECT count(*), sum(a.id) FROM letters a JOIN letters b ON a.body = b.body';
like($node->safe_psql('postgres', "$parallel EXPLAIN (ANALYZE, COSTS off, TIMING off) $join"), qr/Parallel Hash .*Batches: (?!1\b)\d/s,
	'a parallel hash join spills');
is($node->safe_psql('postgres', "$parallel $join"), '20000|200010000', 'and gives the right answer');

$node->command_ok([ 'pgbench', '-q', '-i', '-s', 2, 'postgres' ], 'pgbench fills it');
my $sums = q{SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
	AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)};
my $history = 0;
my %before = generations($node);
for my $round (1 .. 4) {
	my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 3, '-T', 60, '-h', $node->host, '-p', $node->port, 'postgres' ], '<', \undef, '>&', \my $out);
	wait_for('load', sub { $node->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history') > $history + 200 });
	if ($round % 2) {
		my ($acked) = $node->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history');
		$node->kill9;
		$load->finish;
		$node->start;
		cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history'), '>=', $acked, "round $round: no acknowledged row is lost by kill -9");
	} else {
		my $victim = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1");
		my $offset = -s $node->logfile;
		kill('KILL', $victim);
		$load->finish;
		wait_for_file_line($node->logfile, qr/database system is ready to accept connections/, $offset);
		pass("round $round: the server restarts itself after the death of a backend");
	}
	is($node->safe_psql('postgres', $sums), 't', "round $round: the sums agree");
	$history = $node->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history');
	my %now = generations($node);
	my @new = grep { !$before{$_} } keys %now;
	is(scalar @new, 1, "round $round: WAL goes on under one new generation") or diag(explain(\%before, \%now));
	%before = (%before, %now);
}
is(join(' ', files_containing($marker, $node->data_dir)), '', 'after all that the marker is nowhere');
ok(!-e $node->data_dir . '/pg_wal/pgsql_tmp_walcrypt.journal', 'no journal is left');

$node->check_integrity('after all crashes', restart => 1);

# the check itself finds damage: 64 bytes of ciphertext are another page's plaintext
my $file = $node->data_dir . '/' . $node->safe_psql('postgres', "CHECKPOINT; SELECT pg_relation_filepath('pgbench_accounts')");
$node->stop;
open(my $damaged, '+<:raw', $file) or die "$file: $!";
seek($damaged, 8192 * 7 + 4096, 0);
print $damaged 'x' x 64;
close $damaged;
$node->append_conf('postgresql.conf', "ignore_checksum_failure = on\n");
$node->start;
my $findings = $node->integrity_findings;
like($findings, qr/^postgres: .*\bpage verification failed/m, 'a damaged page is found by amcheck');
like($findings, qr/^pg_checksums: .*Bad checksums:  1$/ms, 'and by pg_checksums');
done_testing();
