# pg_upgrade of an encrypted cluster from 15 to 17 and to 18, within one relation key: files are copied or linked as they are.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/upgrade';
mkdir $tmp, 0700;
my $kek = 'file:' . kek_file("$tmp/kek");
my $marker = 'MARKER-upgrade-6d20';
my $facts = q{SELECT count(*), sum(id), sum(hashtext(body)) FROM letters UNION ALL SELECT count(*), sum(id), sum(hashtext(body)) FROM away
	UNION ALL SELECT count(*), sum(abalance), 0 FROM pgbench_accounts};
my $old_bin = `pg_config --bindir`;
chomp $old_bin;

sub run_in
{
	my ($dir, @command) = @_;
	my ($out, $err) = ('', '');
	my $back = PostgreSQL::Test::Utils::tempdir();
	print "# @command\n";
	IPC::Run::run([@command], '<', \undef, '>', \$out, '2>', \$err, init => sub { chdir($dir) or die });
	my $rc = $? >> 8;
	print "# exit $rc\n" . join('', map { "#  $_\n" } split(/\n/, $out . $err));
	return ($rc, $out, $err);
}

# the old cluster, kept; each upgrade begins with a copy of it
my $old = Walcrypt::Node->new('old');
$old->init_encrypted($kek);
$old->append_conf('postgresql.conf', "log_statement = none\n");
$old->start;
mkdir "$tmp/space";
$old->safe_psql('postgres', "CREATE TABLESPACE away LOCATION '$tmp/space'");
$old->command_ok([ 'pgbench', '-q', '-i', '-s', 1, 'postgres' ], 'the old cluster is filled');
$old->safe_psql('postgres', "CREATE TABLE letters (id int PRIMARY KEY, body text);
	INSERT INTO letters SELECT i, '$marker ' || i FROM generate_series(1, 5000) i;
	CREATE TABLE away TABLESPACE away AS SELECT * FROM letters;
	CREATE UNLOGGED TABLE u AS SELECT * FROM letters; VACUUM ANALYZE");
$old->safe_psql('postgres', 'CREATE DATABASE second');
$old->safe_psql('second', "CREATE TABLE letters AS SELECT i AS id, '$marker second ' || i AS body FROM generate_series(1, 100) i; VACUUM");
my $want = $old->safe_psql('postgres', $facts);
# 15.20 keeps a version in the options of each column, pg_attver, which pg_dump of 17.10 and 18.6 passes on and their servers do not
# know: pg_upgrade to these older releases fails with or without encryption
$old->safe_psql($_, "UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text LIKE '%pg_attver%'") for qw(postgres second template1);
$old->stop;
my $old_dir = $old->data_dir;
system_or_bail('cp', '-a', $old_dir, "$tmp/saved");
system_or_bail('cp', '-a', "$tmp/space", "$tmp/saved.space");

my $serial = 0;
# A new cluster of that version; its node and its bin directory.
sub new_cluster
{
	my ($major, @options) = @_;
	my $bin = "$ENV{WALCRYPT_POSTGRES}/$major/postgres/pginstall/bin";
	my $dir = "$tmp/new" . ++$serial;
	local $ENV{WALCRYPT_PG_BINDIR} = $bin;
	ctl('initdb', '-D', $dir, '--kek', $kek, @options, '--', '-A', 'trust', '-N');
	return ($dir, $bin);
}

sub upgrade
{
	my ($dir, $bin, @options) = @_;
	return run_in($tmp, $Walcrypt::ctl, 'exec', '-D', $dir, '--kek', $kek, '--', "$bin/pg_upgrade", '-b', $old_bin, '-B', $bin, '-d', $old_dir, '-D', $dir,
		'-p', PostgreSQL::Test::Cluster::get_free_port(), '-P', PostgreSQL::Test::Cluster::get_free_port(), @options);
}

my $port = PostgreSQL::Test::Cluster::get_free_port();
for my $case ([ 17, '--link' ], [ 17, '--copy-file-range' ], [ 18, '--copy' ], [ 18, '--swap' ]) {
	my ($major, $mode) = @$case;
	my @more = $major >= 18 ? ('--no-statistics') : ();
	system_or_bail('rm', '-rf', $old_dir, "$tmp/space");
	system_or_bail('cp', '-a', "$tmp/saved", $old_dir);
	system_or_bail('cp', '-a', "$tmp/saved.space", "$tmp/space");
	my ($dir, $bin) = new_cluster($major, '--copy-encryption-keys', $old_dir);
	my ($rc, $out, $err) = upgrade($dir, $bin, $mode, @more);
	is($rc, 0, "15 to $major, $mode") or diag($out . $err, map { "$_:\n" . (slurp_file($_) =~ /((?:.*\n){0,12})\z/)[0] } glob("$dir/pg_upgrade_output.d/*/log/*"));
	is(join(' ', files_containing($marker, $dir, $old_dir, "$tmp/space")), '', 'the marker is nowhere');
	my @start = ('-w', '-D', $dir, '-l', "$dir.log", '-o', "-p $port -k $tmp -c listen_addresses=''");
	($rc, $out, $err) = run_in($tmp, $Walcrypt::ctl, 'exec', '-D', $dir, '--kek', $kek, '--', "$bin/pg_ctl", @start, 'start');
	is($rc, 0, 'the new server starts') or diag(slurp_file("$dir.log"));
	my @psql = ("$bin/psql", '-XAtq', '-h', $tmp, '-p', $port, '-v', 'ON_ERROR_STOP=1');
	is((run_in($tmp, @psql, '-d', 'postgres', '-c', 'SHOW server_version'))[1] =~ /^(\d+)/ ? $1 : '', $major, 'of the new version');
	is((run_in($tmp, @psql, '-d', 'postgres', '-c', $facts))[1], "$want\n", 'all rows are there, in the tablespace too');
	is((run_in($tmp, @psql, '-d', 'second', '-c', 'SELECT count(*) FROM letters'))[1], "100\n", 'and in the other database');
	($rc) = run_in($tmp, @psql, '-d', 'postgres', '-c', "INSERT INTO letters SELECT i, '$marker new ' || i FROM generate_series(10001, 12000) i; UPDATE away SET body = body || ' new'; CHECKPOINT");
	is($rc, 0, 'it is written to');
	($rc) = run_in($tmp, "$bin/pg_ctl", '-w', '-D', $dir, '-m', 'immediate', 'stop');
	($rc) = run_in($tmp, $Walcrypt::ctl, 'exec', '-D', $dir, '--kek', $kek, '--', "$bin/pg_ctl", @start, 'start');
	is((run_in($tmp, @psql, '-d', 'postgres', '-c', 'SELECT count(*) FROM letters'))[1], "7000\n", 'and recovers');
	($rc, $out, $err) = run_in($tmp, "$bin/pg_amcheck", '-h', $tmp, '-p', $port, '--all', '--install-missing', '--heapallindexed', '--parent-check');
	is("$rc $out$err", '0 ', 'pg_amcheck finds nothing');
	($rc) = run_in($tmp, "$bin/pg_ctl", '-w', '-D', $dir, '-m', 'fast', 'stop');
	is($rc, 0, 'it stops');
	($rc, $out, $err) = run_in($tmp, $Walcrypt::ctl, 'exec', '-D', $dir, '--kek', $kek, '--', "$bin/pg_checksums", '--check', '-D', $dir);
	like("$rc $out$err", qr/^0 .*^Bad checksums:  0$/ms, 'nor pg_checksums');
	($rc, $out, $err) = ctl_output('verify', '-D', $dir, '--kek', $kek);
	is($rc, 0, 'verify is clean') or diag($out . $err);
	is(join(' ', files_containing($marker, $dir, "$tmp/space")), '', 'the marker is nowhere, again');
	system_or_bail('rm', '-rf', $dir);
}

# what is refused, before pg_upgrade has begun
system_or_bail('rm', '-rf', $old_dir, "$tmp/space");
system_or_bail('cp', '-a', "$tmp/saved", $old_dir);
system_or_bail('cp', '-a', "$tmp/saved.space", "$tmp/space");
sub refused
{
	my ($name, $message, $dir, $bin, @options) = @_;
	my ($rc, $out, $err) = upgrade($dir, $bin, @options);
	is($rc, 125, "$name: not run");
	like($err, $message, '... and said why');
	is($out, '', '... before pg_upgrade said a word');
	ok(!-e "$dir/pg_upgrade_output.d", '... and nothing is written');
	return;
}
my ($other, $bin17) = new_cluster(17);
refused('another relation key', qr/has another relation key than the old one.*HINT.*--copy-encryption-keys/s, $other, $bin17);
my ($same, $bin18) = new_cluster(18, '--copy-encryption-keys', $old_dir);
refused('statistics in clear files', qr/statistics, which hold values of rows.*HINT.*--no-statistics/s, $same, $bin18);
refused('clones', qr/--clone is not supported.*HINT.*--link/s, $same, $bin18, '--clone', '--no-statistics');
refused('another directory than exec has', qr/new cluster is "\Q$other\E", but exec was given "\Q$same\E"/, $same, $bin18, '--no-statistics', '--new-datadir', $other);
my $plain = Walcrypt::Node->new('plain');
$plain->init;
refused('an unencrypted old cluster', qr/"\Q@{[$plain->data_dir]}\E" is not encrypted.*HINT.*Both clusters have to be encrypted/s, $same, $bin18, '--no-statistics', '-d', $plain->data_dir);
my ($rc, $out, $err) = run_in($tmp, $Walcrypt::ctl, 'exec', '-D', $same, '--kek', $kek, '--', "$bin18/pg_upgrade", '--version');
like($out, qr/^pg_upgrade \(PostgreSQL\) 18/, 'a version needs nothing');
($rc, $out, $err) = upgrade($same, $bin18, '--check');
is($rc, 0, '--check goes through') or diag($out . $err);

# it changes the system identifier, to which the keys are bound
($rc, $out, $err) = run_in($tmp, $Walcrypt::ctl, 'exec', '-D', $same, '--kek', $kek, '--', "$bin18/pg_createsubscriber", '-D', $same, '-P', 'host=/nowhere', '-d', 'postgres');
is($rc, 125, 'pg_createsubscriber is not run');
like($err, qr/pg_createsubscriber cannot be used on an encrypted data directory.*DETAIL.*system identifier.*HINT/s, '... and said why');
done_testing();
