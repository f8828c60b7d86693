# Page checksums of base backups that are taken straight from an encrypted server ("Base backups" in docs/storage.md): a
# damaged page is reported as a stock server reports it, wherever in the page the damage is, and under load no sound page is.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use Walcrypt;

my $tmp = PostgreSQL::Test::Utils::tempdir();
my $kek = 'file:' . kek_file("$tmp/kek_104");
my $backups = 0;

# (success, stderr, directory) of a stock pg_basebackup
sub backup
{
	my ($node, @options) = @_;
	my $dir = "$tmp/backup_" . ++$backups;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ 'pg_basebackup', '-D', $dir, '-c', 'fast', '--no-sync', '-X', 'none', '-d', $node->connstr, @options ],
		'<', \undef, '>', \$out, '2>', \$err);
	$err =~ s/^NOTICE:  WAL archiving is not enabled.*\n//m;
	return ($ok, $err, $dir);
}

sub forget { my ($dir) = @_; return system_or_bail('rm', '-rf', $dir); }

# How many pages of a backup would a server look at that takes the ciphertext for a page? Those not new whose LSN lies before $lsn.
sub ciphertext_looked_at
{
	my ($dir, $lsn) = @_;
	my ($hi, $lo) = map { hex } split m{/}, $lsn;
	my $count = 0;
	for my $path (glob("$dir/base/*/* $dir/global/*")) {
		next unless $path =~ m{/\d+(_fsm|_vm|_init)?(\.\d+)?$};
		open(my $f, '<:raw', $path) or die;
		while ((read($f, my $page, 8192) // 0) == 8192) {
			my ($page_hi, $page_lo, $upper) = unpack('L<L<x6S<', $page);
			$count++ if $upper != 0 && ($page_hi < $hi || ($page_hi == $hi && $page_lo < $lo));
		}
	}
	return $count;
}

# Change bytes of one page of a relation file on disk; the server has it neither in its buffers nor dirty.
sub damage
{
	my ($node, $file, $block, $at) = @_;
	open(my $f, '+<:raw', $node->data_dir . "/$file") or die "$file: $!";
	seek($f, 8192 * $block + $at, 0);
	read($f, my $old, 4) == 4 or die;
	seek($f, 8192 * $block + $at, 0);
	print $f ~$old;
	close $f;
	return $old;
}

sub repair
{
	my ($node, $file, $block, $at, $old) = @_;
	open(my $f, '+<:raw', $node->data_dir . "/$file") or die;
	seek($f, 8192 * $block + $at, 0);
	print $f $old;
	close $f;
	return;
}

my $node = Walcrypt::Node->new('one');
$node->init_encrypted($kek, allows_streaming => 1, extra => ['-k']);
$node->append_conf('postgresql.conf', "log_statement = none\nshared_buffers = 2MB\nwal_log_hints = on\nautovacuum = on\nautovacuum_naptime = 1s\n");
$node->start;
$node->command_ok([ 'pgbench', '-q', '-i', '-s', 2, 'postgres' ], 'pgbench fills it');
$node->safe_psql('postgres', 'CREATE TABLE still WITH (autovacuum_enabled = off) AS SELECT i, md5(i::text) FROM generate_series(1, 100000) i; CREATE INDEX ON still (i); VACUUM ANALYZE still');
$node->stop;

# Far up in WAL, where one page of ciphertext in eight looks like one that is older than the backup.
my ($ok, $out, $err) = $node->run_program('pg_resetwal', '-l', '000000011F00000000000001', '-D', $node->data_dir);
ok($ok, 'WAL goes on far up') or diag($err);
$node->start;
my $lsn = $node->lsn('insert');
like($lsn, qr{^1F000000/}, "at $lsn");

# backups under load, from small shared buffers: pages are written all the time
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-T', 600, '-h', $node->host, '-p', $node->port, 'postgres' ], '<', \undef, '>&', \my $load_out);
wait_for('load', sub { $node->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history') > 100 });
my ($alarms, $looked_at, $before, $last) = (0, 0, $node->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history'), undef);
my $rounds = postgres_major() == 15 ? 20 : 5;
for my $round (1 .. $rounds) {
	my ($good, $message, $dir) = backup($node);
	$alarms++ unless $good && $message !~ /checksum/;
	diag($message) if !$good || $message ne '';
	$looked_at += ciphertext_looked_at($dir, $lsn);
	forget($last) if defined $last;
	$last = $dir;
}
is($alarms, 0, "$rounds base backups under load without a false alarm");
cmp_ok($looked_at, '>', 50 * $rounds, "a check of the ciphertext would have looked at $looked_at pages");
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history'), '>', $before + 100, 'there was load all the time');
$load->signal('INT');
$load->finish;
is($node->safe_psql('postgres', 'SELECT coalesce(sum(checksum_failures), 0) FROM pg_stat_database'), '0', 'no failure is counted');
command_ok([ 'pg_verifybackup', '-n', $last ], 'stock pg_verifybackup passes on the last of them');
forget($last);

# damage
$node->safe_psql('postgres', 'CHECKPOINT');
my %file = map { $_ => $node->safe_psql('postgres', "SELECT pg_relation_filepath('$_')") } qw(still still_i_idx pg_database);
my $database = $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = 'postgres'");
for my $where ([ 'still', 100, 4000, 'among the rows' ], [ 'still', 7, 2, 'in the LSN' ], [ 'still_i_idx', 3, 9, 'in the checksum' ],
	[ 'still', 0, 14, 'in the page header' ]) {
	my ($relation, $block, $at, $what) = @$where;
	my $old = damage($node, $file{$relation}, $block, $at);
	my ($good, $message, $dir) = backup($node);
	ok(!$good, "damage $what: the backup fails");
	like($message, qr{WARNING:  checksum verification failed in file "\./$file{$relation}", block $block: calculated [0-9A-F]+ but expected [0-9A-F]+},
		'with the file and block named');
	like($message, qr/checksum error occurred/, 'at its end, as pg_basebackup knows it') or diag($message);
	ok(-s "$dir/backup_manifest.tmp", 'when all of it was sent');
	is(scalar(() = $message =~ /checksum verification failed/g), 1, 'no other page is named');
	($good, $message, $dir) = backup($node, '--no-verify-checksums');
	ok($good && $message eq '', 'with --no-verify-checksums nobody looks') or diag($message);
	repair($node, $file{$relation}, $block, $at, $old);
}
is($node->safe_psql('postgres', "SELECT checksum_failures FROM pg_stat_database WHERE datid = $database"), '4', 'pg_stat_database counts them');
like(slurp_file($node->logfile), qr/ERROR:  checksum verification failure during base backup/, 'the log has them');

# many pages, and a shared relation; elsewhere in them, should the checksum of one fit all the same, as that of one in 65536 does
my ($good, $message);
my $shared_seen = 0;
for my $at (5000, 5100, 5200) {
	my %old = map { $_ => damage($node, $file{still}, $_, $at) } 10 .. 29;
	my $shared = damage($node, $file{pg_database}, 0, $at);
	($good, $message) = backup($node);
	$shared_seen++ if $message =~ /"\.\/$file{pg_database}"/;
	my $one_fits = $message =~ /^WARNING:  20 total/m;
	if ($one_fits) {
		(undef, my $again) = backup($node);
		is($again, $message, 'one damaged page was not found, and is not found again: its checksum fits');
		$shared_seen++ if $again =~ /"\.\/$file{pg_database}"/;
	}
	repair($node, $file{still}, $_, $at, $old{$_}) for keys %old;
	repair($node, $file{pg_database}, 0, $at, $shared);
	last if !$one_fits;
}
ok(!$good, 'many damaged pages: the backup fails');
is(scalar(() = $message =~ /checksum verification failed in file "\.\/$file{still}"/g), 5, 'five are named');
like($message, qr/further checksum verification failures in file "\.\/$file{still}" will not be reported/, 'the others are not');
like($message, qr/file "\.\/$file{still}" has a total of 20 checksum verification failures/, 'but counted');
like($message, qr/checksum verification failed in file "\.\/$file{pg_database}", block 0/, 'the other file is named');
like($message, qr/21 total checksum verification failures/, 'all are counted');
is($node->safe_psql('postgres', 'SELECT checksum_failures FROM pg_stat_database WHERE datid = 0'), $shared_seen, 'shared relations are counted too');
($good, $message) = backup($node);
ok($good && $message eq '', 'repaired, the backup is good') or diag($message);

# from a standby too
my $standby = Walcrypt::Node->new('standby');
$node->backup('for_standby');
$standby->init_from_backup($node, 'for_standby', has_streaming => 1);
$standby->use_layer($kek);
$standby->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\n");
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
($good, $message) = backup($standby);
ok($good && $message eq '', 'a backup of a standby is good') or diag($message);
damage($standby, $file{still}, 30, 3000);
($good, $message) = backup($standby);
ok(!$good && $message =~ /checksum verification failed in file "\.\/$file{still}", block 30:/, 'and a damaged page is found in one') or diag($message);
$standby->stop;

# Where program text may not be changed, the server itself looks at ciphertext: the client is told that this says nothing, and
# here are the false alarms. (A security policy, played by a preloaded library.)
system_or_bail('gcc', '-shared', '-fPIC', '-D_GNU_SOURCE', '-o', "$tmp/locked_text.so", "$FindBin::RealBin/../preload/locked_text.c");
$node->stop;
if (postgres_major() >= 17) {
	local $Walcrypt::layer = "$tmp/locked_text.so:$Walcrypt::layer";
	is($node->start(fail_ok => 1), 0, 'locked program text: walsenders would stream shared buffers, so the server does not start (120)');
} else {
	local $Walcrypt::layer = "$tmp/locked_text.so:$Walcrypt::layer";
	$node->start;
	($good, $message) = backup($node);
	like($message, qr/WARNING:  page checksums are not verified in this base backup/, 'locked program text: the client is told');
	like($message, qr/checksum verification failed in file/, 'a check of the ciphertext gives false alarms');
	($good, $message) = backup($node, '--no-verify-checksums');
	ok($good && $message eq '', 'with --no-verify-checksums there is none') or diag($message);
	$node->stop;
}
($ok, $out, $err) = $node->run_program('pg_checksums', '--check', '-D', $node->data_dir);
like($out, qr/Bad checksums:  0/, 'all pages are whole');
done_testing();
