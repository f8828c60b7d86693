# PostgreSQL's whole regression suite on a clear primary while an encrypted standby streams through walcrypt-proxy: the suite's own
# 027_stream_regress.pl, unedited (tests/postgres/run --proxy), whose dumps of both servers must be equal. Then what it left behind: everything
# came through the proxy, the standby's files are ciphertext, and every page and index of it is sound.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Suite;

my $source = Walcrypt::Suite::source(15);
my $file = 'recovery/027_stream_regress.pl';
my $work = "$PostgreSQL::Test::Utils::tmp_check/510";
mkdir $work;
my $out = '';
my $begin = time();
{
	# the servers' directories are kept; the suite's environment is its own, not this test's
	local %ENV = (%ENV, PG_TEST_NOCLEAN => 1, WALCRYPT_WORK => $work, TEST_JOBS => 1, PROVE_VERBOSE => '-v');
	delete @ENV{qw(TESTDIR PERL5LIB PGHOST PGPORT PGDATABASE PGUSER)};
	IPC::Run::run([ 'tests/postgres/run', '--proxy', $file ], '<', \undef, '>', \$out, '2>&1');
}
my $check = "$work/suites/recovery-proxy-clear/tmp_check";
is($?, 0, "$file through the proxy") or diag($out, -s "$check/regression.diffs" ? slurp_from("$check/regression.diffs") : '');
note("$file: " . int(time() - $begin) . ' s');
my $said = slurp_from("$check/log/regress_log_027_stream_regress");
like($said, qr/ok \d+ - \Q$_\E$/m, "... $_") for 'compare primary and standby dumps', 'compare primary and standby catalog dumps';
my ($passed, $failed) = map { scalar(() = $said =~ /^$_\b/mg) } qr/(?:test)?\s+\S+\s+\.\.\. ok/, qr/.*\.\.\. FAILED/;
cmp_ok($passed, '>', 200, "... $passed regression tests pass, $failed do not (README.md says why)");
cmp_ok(-s "$check/primary.dump", '>', 1_000_000, '... the dumps are ' . (-s "$check/primary.dump") . ' bytes');

# it was the proxy that all came through
my $log = slurp_from("$check/log/027_stream_regress_proxy.log");
like($log, qr/base backup: \d{3,} relation files .* encrypted, /, 'the base backup came through the proxy, encrypted');
like($log, qr/\(sealed-\d+\): standby_1 from local, upstream "up-\d+"/, "the standby's stream, too");
unlike($log, qr/ERROR|FATAL|WARNING/, 'and the proxy had nothing to complain about');

# the standby as it stands on the disk
my ($primary_dir, $standby_dir) = map { "$check/t_027_stream_regress_${_}_data/pgdata" } qw(primary standby_1);
my ($hi, $lo) = (run_command([ 'pg_controldata', $standby_dir ]))[0] =~ m{^Latest checkpoint location: +(\w+)/(\w+)}m;
my $replayed = hex($hi) * 2**32 + hex($lo);
cmp_ok($replayed, '>', 100e6, "it has replayed WAL to $hi/$lo");
my $kek = "file:$work/suites.kek";
my $marker = 'AAAAxx';
cmp_ok(scalar files_containing($marker, "$primary_dir/base"), '>', 0, "the suite's rows are on the primary's disk");
is(join(' ', files_containing($marker, "$standby_dir/base", "$standby_dir/pg_wal")), '', 'and not on the standby\'s');
my %wal = encrypted_wal_files("$standby_dir/pg_wal");
is(join(' ', grep { $wal{$_} !~ /^(encrypted|empty)$/ } sort keys %wal), '', 'its WAL is ciphertext');
my ($rc, $report) = ctl_output('verify', '-D', $standby_dir, '--kek', $kek);
is($rc, 0, 'verify is clean') or diag($report);
my $standby = Walcrypt::Node->new('standby');
mkdir $_ for $standby->basedir, $standby->backup_dir;
rename($standby_dir, $standby->data_dir) or die "$standby_dir: $!";
$standby->append_conf('postgresql.conf', 'port = ' . $standby->port . "\nunix_socket_directories = '" . $standby->host . "'\nprimary_conninfo = ''\n");
$standby->append_conf('postgresql.auto.conf', "primary_conninfo = ''\n");
$standby->use_layer($kek)->start;
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'the standby is not promoted';
$standby->check_integrity('the standby, promoted');
done_testing();
