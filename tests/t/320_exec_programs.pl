# Each stock program under walcrypt-ctl exec, and by its shim in libexec/walcrypt/bin, on one encrypted cluster; then the same cluster
# under Debian's pg_ctlcluster with the sample environment file, and the sample drop-in under systemd's own check.
use strict;
use warnings;
use Cwd qw(abs_path);
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $conf = abs_path("$FindBin::RealBin/../../conf");
my $marker = 'MARKER-exec-90be11';
my $kek = 'file:' . kek_file("$tmp/kek_320");
my $shims = "$Walcrypt::prefix/libexec/walcrypt/bin";
my $node = Walcrypt::Node->new('sealed');
$node->init_encrypted($kek, allows_streaming => 1);
$node->append_conf('postgresql.conf', "log_statement = none\nwal_keep_size = 128MB\n");
my $dir = $node->data_dir;
my $log = $node->logfile;

# (exit status, stdout and stderr) of a program under the layer: by exec, and by its shim
sub by_exec
{
	my ($data, @command) = @_;
	my $out = '';
	IPC::Run::run([ $Walcrypt::ctl, 'exec', '-D', $data, '--kek', $kek, '--', @command ], '<', \undef, '>', \$out, '2>&1');
	return ($? >> 8, $out);
}

sub by_shim
{
	my ($program, @args) = @_;
	local %ENV = (%ENV, WALCRYPT_KEK => $kek);
	my $out = '';
	IPC::Run::run([ "$shims/$program", @args ], '<', \undef, '>', \$out, '2>&1');
	return ($? >> 8, $out);
}

# pg_ctl starts a server in the background that keeps our pipe open: its words go to a file
sub pg_ctl
{
	my ($how, @args) = @_;
	my @command = $how eq 'exec' ? ($Walcrypt::ctl, 'exec', '-D', $dir, '--kek', $kek, '--', 'pg_ctl') : ("$shims/pg_ctl", '-D', $dir);
	local %ENV = (%ENV, $how eq 'exec' ? () : (WALCRYPT_KEK => $kek));
	return system_log(@command, '-w', '-l', $log, @args);
}

sub query { my ($sql) = @_; my ($out, $err); IPC::Run::run([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $sql ], '<', \undef, '>', \$out, '2>', \$err); chomp $out; return $out . $err; }

# postgres in single-user mode, then pg_ctl
my $single = '';
IPC::Run::run([ $Walcrypt::ctl, 'exec', '-D', $dir, '--kek', $kek, '--', 'postgres', '--single', '-D', $dir, 'postgres' ], '<', \"CREATE TABLE t AS SELECT i, '$marker ' || i AS body FROM generate_series(1, 1000) i;\n", '>', \$single, '2>&1');
is($?, 0, 'exec: postgres --single') or diag($single);
IPC::Run::run([ "$shims/postgres", '--single', '-D', $dir, 'postgres' ], '<', \"SELECT count(*) FROM t\n", '>', \$single, '2>&1', init => sub { $ENV{WALCRYPT_KEK} = $kek });
like($single, qr/count = "1000"/, 'shim: postgres --single');
for my $how (qw(exec shim)) {
	is(pg_ctl($how, 'start'), 0, "$how: pg_ctl start");
	is(query('SELECT count(*) FROM t'), '1000', '... serves');
	is(pg_ctl($how, 'restart'), 0, "$how: pg_ctl restart");
	is(pg_ctl($how, 'status'), 0, "$how: pg_ctl status");
	is(query('SELECT count(*) FROM t'), '1000', '... serves');
	is(pg_ctl($how, 'stop'), 0, "$how: pg_ctl stop");
}
# postgres itself, in the foreground
my $server = IPC::Run::start([ $Walcrypt::ctl, 'exec', '-D', $dir, '--kek', $kek, '--', 'postgres' ], '<', \undef, '>', $log . '.fg', '2>&1');
wait_for('the server', sub { query('SELECT 1') eq '1' });
is(query('SELECT count(*) FROM t'), '1000', 'exec: postgres in the foreground');

# pg_amcheck asks the server, whose functions read the files
query('CREATE EXTENSION amcheck; CREATE INDEX ON t (i); CHECKPOINT');
my $amcheck = '';
IPC::Run::run([ 'pg_amcheck', '-v', '--heapallindexed', '--parent-check', '-h', $node->host, '-p', $node->port, '-d', 'postgres' ], '<', \undef, '>', \$amcheck, '2>&1');
is($?, 0, 'pg_amcheck and its server') or diag($amcheck);
like($amcheck, qr/checking btree index "postgres\.public\.t_i_idx"/, '... looked at the index');
my $file = query("SELECT pg_relation_filepath('t')");
my $segment = query('SELECT pg_walfile_name(pg_current_wal_lsn())');
$server->signal('INT');
$server->finish;

# tools on the stopped directory
for my $how (qw(exec shim)) {
	my $run = sub { my ($program, @args) = @_; return $how eq 'exec' ? by_exec($dir, $program, @args) : by_shim($program, @args); };
	my ($rc, $out) = $run->('pg_checksums', '--check', '-D', $dir);
	is($rc, 0, "$how: pg_checksums --check") or diag($out);
	like($out, qr/^Bad checksums:  0$/m, '... finds nothing');
	($rc) = $run->('pg_checksums', '--disable', '-D', $dir);
	is($rc, 0, "$how: pg_checksums --disable");
	($rc, $out) = $run->('pg_checksums', '--enable', '-D', $dir);
	is($rc, 0, "$how: pg_checksums --enable") or diag($out);
	($rc, $out) = $run->('pg_controldata', $dir);
	like($out, qr/^Data page checksum version: +1$/m, "$how: pg_controldata");
	($rc, $out) = $run->('pg_waldump', '-p', "$dir/pg_wal", $segment);
	like($out, qr/rmgr: Heap .*INSERT/, "$how: pg_waldump");
	($rc, $out) = $run->('pg_resetwal', '-f', '-D', $dir);
	is($rc, 0, "$how: pg_resetwal") or diag($out);
	my %wal = encrypted_wal_files("$dir/pg_wal");
	is(join(' ', values %wal), 'encrypted', '... writes an encrypted segment');
	($segment) = keys %wal;
	is(pg_ctl($how, 'start'), 0, "$how: pg_ctl start after it");
	is(query("INSERT INTO t VALUES (-1, '$how'); SELECT count(*) FROM t"), $how eq 'exec' ? '1001' : '1002', '... serves');
	$segment = query('CHECKPOINT; SELECT pg_walfile_name(pg_current_wal_lsn())');
	is(pg_ctl($how, 'stop'), 0, "$how: pg_ctl stop");
}
command_fails([ 'pg_checksums', '--check', '-D', $dir ], 'without the layer every page is bad');
is(join(' ', files_containing($marker, $dir)), '', 'all that they wrote is ciphertext');

# pg_rewind and pg_verifybackup
$node->start;
$node->backup('base');
my ($rc, $out) = by_shim('pg_verifybackup', $node->backup_dir . '/base');
is($rc, 0, 'shim: pg_verifybackup, WAL included') or diag($out);
command_fails([ 'pg_verifybackup', $node->backup_dir . '/base' ], 'which without the layer cannot read the WAL');
for my $how (qw(exec shim)) {
	my $target = Walcrypt::Node->new("target_$how");
	$target->init_from_backup($node, 'base', has_streaming => 1);
	$target->use_layer($kek);
	$target->start;
	$node->wait_for_catchup($target, 'replay', $node->lsn('insert'));
	$target->promote;
	$target->safe_psql('postgres', "INSERT INTO t VALUES (-2, 'lost'); CHECKPOINT");
	$node->safe_psql('postgres', "INSERT INTO t VALUES (-3, '$how')");
	$target->stop;
	my @args = ('--target-pgdata=' . $target->data_dir, '--source-server=' . $node->connstr('postgres'));
	($rc, $out) = $how eq 'exec' ? by_exec($target->data_dir, 'pg_rewind', @args) : by_shim('pg_rewind', @args);
	is($rc, 0, "$how: pg_rewind") or diag($out);
	$target->append_conf('postgresql.conf', 'port = ' . $target->port . "\n");
	$target->append_conf('postgresql.auto.conf', "primary_conninfo = '" . $node->connstr . "'\n");
	$target->set_standby_mode;
	$target->start;
	my $lsn = $node->lsn('insert');
	$target->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'") or die;
	is($target->safe_psql('postgres', "SELECT string_agg(body, ' ' ORDER BY i DESC) FROM t WHERE i < -1"), $node->safe_psql('postgres', "SELECT string_agg(body, ' ' ORDER BY i DESC) FROM t WHERE i < -1"), '... and the target follows');
	$target->stop;
}
$node->stop;

# Debian's pg_ctlcluster, as an ordinary user with a configuration folder of its own; the samples are followed to the letter but for paths
my $etc = "$tmp/etc";
mkdir $etc;
my $sockets = $node->host;
my %own = (PATH => "$ENV{PATH}:/usr/bin", PG_CLUSTER_CONF_ROOT => $etc, HOME => $ENV{HOME});
sub cluster
{
	my ($program, @args) = @_;
	local %ENV = %own;
	my $words = "$tmp/cluster.out";
	my $ok = system("$program " . join(' ', @args) . " >'$words' 2>&1 </dev/null") == 0;
	return ($ok, slurp_file($words));
}
my ($ok, $text) = cluster('pg_createcluster', 15, 'sealed', '-d', $dir, '-l', "$tmp/cluster.log", '-s', $sockets, '-p', $node->port, '--start-conf', 'manual');
ok($ok, 'pg_createcluster takes the encrypted directory over') or diag($text);
ok(-f "$etc/15/sealed/postgresql.conf" && !-e "$dir/postgresql.conf", '... and its configuration');
($ok, $text) = cluster('pg_ctlcluster', 15, 'sealed', 'start');
ok(!$ok, 'without the environment file it does not start');
like($text, qr/FATAL: .*storage layer/, '... and the guard says why') or diag($text);
my $sample = slurp_file("$conf/environment");
ok($sample =~ s{/usr/local/lib/walcrypt/libwalcrypt-storage\.so}{$Walcrypt::layer} && $sample =~ s{^WALCRYPT_KEK = 'file:/etc/walcrypt/kek'}{WALCRYPT_KEK = '$kek'}m, 'the sample environment file, with paths of our own');
unlink "$etc/15/sealed/environment";
append_to_file("$etc/15/sealed/environment", $sample);
for my $action (qw(start restart reload status)) {
	($ok, $text) = cluster('pg_ctlcluster', 15, 'sealed', $action);
	ok($ok, "pg_ctlcluster $action") or diag($text . (-e "$tmp/cluster.log" ? slurp_file("$tmp/cluster.log") : ''));
	is(query('SELECT count(*) FROM t WHERE i > 0'), '1000', '... serves');
}
query("INSERT INTO t VALUES (-9, '$marker cluster'); CHECKPOINT");
($ok, $text) = cluster('pg_lsclusters', '-h');
like($text, qr/^15 +sealed +\d+ +online/m, 'pg_lsclusters sees it');
my ($postmaster) = slurp_file("$dir/postmaster.pid") =~ /^(\d+)/;
like(slurp_file("/proc/$postmaster/maps"), qr/libwalcrypt-storage\.so/, 'the layer is in it');
($ok, $text) = cluster('pg_ctlcluster', '-m', 'fast', 15, 'sealed', 'stop');
ok($ok, 'pg_ctlcluster stop') or diag($text);
is(join(' ', files_containing($marker, $dir)), '', 'all ciphertext');
($rc, $out) = ctl_output('verify', '-D', $dir, '--kek', $kek);
is($rc, 0, 'walcrypt-ctl verify is clean') or diag($out);

# the drop-in with Debian's unit
SKIP: {
	skip 'systemd is not installed', 1 unless -x '/usr/bin/systemd-analyze' && -f '/lib/systemd/system/postgresql@.service';
	my $units = "$tmp/units";
	mkdir $_ for $units, "$units/postgresql\@15-sealed.service.d";
	system_or_bail('cp', '/lib/systemd/system/postgresql@.service', "$units/postgresql\@15-sealed.service");
	system_or_bail('cp', "$conf/postgresql-walcrypt.conf", "$units/postgresql\@15-sealed.service.d/walcrypt.conf");
	my $check = sub { my $said = `SYSTEMD_UNIT_PATH='$units:' systemd-analyze verify --man=no '$units/postgresql\@15-sealed.service' 2>&1`; return join('', grep { /walcrypt|sealed/ } split(/^/, $said)); };
	is($check->(), '', 'systemd-analyze verify has nothing to say about the drop-in');
	append_to_file("$units/postgresql\@15-sealed.service.d/walcrypt.conf", "LimitNOTHING=1\n");
	like($check->(), qr/LimitNOTHING/, '... and would, if there was something');
}
done_testing();
