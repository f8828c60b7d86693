# R6: what a walsender streams is ciphertext throughout or clear throughout, under load and at the tip of WAL, never a mixture.
# 17 and 18 read recent WAL from shared buffers (122 and 123 run this file with them): files have to be made their only source.
# Clear needs TLS, which 18's build has not.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $user = getpwuid($<);
my $major = postgres_major();
my $tmp = $PostgreSQL::Test::Utils::tmp_check . "/walsender$major";
mkdir $tmp, 0700;
my $kek = 'file:' . kek_file("$tmp/kek");
system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=localhost', '-days', '2', '-keyout', "$tmp/key", '-out', "$tmp/cert");
chmod(0600, "$tmp/key");

sub facts
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{
		SELECT count(*), sum(abalance) FROM pgbench_accounts UNION ALL SELECT count(*), sum(delta) FROM pgbench_history
		UNION ALL SELECT count(*), sum(hashtext(body)) FROM letters});
}

# an encrypted primary with some rows, and buffers that hold more WAL than anybody is behind
sub primary
{
	my ($name, $marker, $conf) = @_;
	my $node = Walcrypt::Node->new($name);
	$node->init_encrypted($kek, allows_streaming => 1);
	$node->append_conf('postgresql.conf', "log_statement = none\nwal_buffers = 16MB\nwal_keep_size = 512MB\nmax_wal_size = 2GB\n" . ($conf // ''));
	$node->start;
	$node->command_ok([ 'pgbench', '-q', '-i', '-s', 1, 'postgres' ], "$name: filled");
	$node->safe_psql('postgres', "CREATE TABLE letters (id int PRIMARY KEY, body text);
		INSERT INTO letters SELECT i, '$marker ' || i FROM generate_series(1, 2000) i");
	return $node;
}

# pg_receivewal that every commit waits for, so that it is sent what was written a moment ago, while pgbench runs
sub receive_under_load
{
	my ($node, $connection, $marker, $dir) = @_;
	mkdir $dir;
	my $out = '';
	my $receiver = IPC::Run::start([ 'pg_receivewal', '-D', $dir, '--synchronous', '-d', "$connection application_name=receiver" ], '<', \undef, '>&', \$out);
	wait_for('the stream', sub { $receiver->pumpable ? $receiver->pump_nb : die "pg_receivewal ended: $out"; $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'receiver' AND state = 'streaming'") == 1 });
	$node->append_conf('postgresql.conf', "synchronous_standby_names = 'receiver'\n");
	$node->reload;
	wait_for('sync', sub { $node->safe_psql('postgres', "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'receiver'") eq 'sync' });
	$node->command_ok([ 'pgbench', '-n', '-c', 4, '-t', 300, 'postgres' ], 'pgbench, every commit received');
	$node->safe_psql('postgres', "INSERT INTO letters SELECT i, '$marker load ' || i FROM generate_series(10001, 12000) i; SELECT pg_switch_wal()");
	$node->safe_psql('postgres', "INSERT INTO letters VALUES (20000, '$marker tip')");
	my $last = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn())');
	wait_for('the last segment', sub { -e "$dir/$last.partial" });
	$node->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
	$node->reload;
	$receiver->signal('INT');
	$receiver->finish;
	unlike($out, qr/error|unexpected/, 'the stream was never refused') or diag($out);
	return sort map { m{([^/]+)$} } grep { !/partial/ } glob("$dir/0*");
}

# Two files of ciphertext differ where zeros were encrypted later, when the page was complete; what they say is the same.
sub same_wal
{
	my ($node, @files) = @_;
	my @clear;
	for my $file (@files) {
		unlink "$tmp/clear";
		ctl('wal', $file, '--decrypt', "$tmp/clear", '-D', $node->data_dir, '--kek', $kek);
		push @clear, slurp_file("$tmp/clear");
	}
	return $clear[0] eq $clear[1];
}

sub files_only
{
	my $marker = "MARKER-files-$major-90ab";
	my $node = primary("files$major", $marker);
	like($node->safe_psql('postgres', 'SHOW server_version'), qr/^$major\b/, "PostgreSQL $major");
	my @segments = receive_under_load($node, $node->connstr, $marker, "$tmp/received$major");
	my %what = encrypted_wal_files("$tmp/received$major");
	is(join(' ', grep { $what{$_} ne 'encrypted' } sort keys %what), '', "$major, files: all that was received is ciphertext");
	cmp_ok(scalar @segments, '>', 0, 'and whole segments are among it');
	is(join(' ', grep { !same_wal($node, "$tmp/received$major/$_", $node->data_dir . "/pg_wal/$_") } @segments), '', 'which say what stands on the disk');
	is(join(' ', files_containing($marker, "$tmp/received$major", $node->data_dir)), '', 'the marker is nowhere');
	$node->stop;
	return;
}

sub clear_throughout
{
	my $marker = "MARKER-clear-$major-71cd";
	local $ENV{WALCRYPT_WALSENDER} = 'clear';
	my $node = primary("clear$major", $marker, "ssl = on\nssl_cert_file = '$tmp/cert'\nssl_key_file = '$tmp/key'\nlisten_addresses = '127.0.0.1'\n");
	my $port = $node->port;
	my $tls = "host=127.0.0.1 port=$port user=$user sslmode=require";

	# replication outside TLS is refused, whatever it wants; SQL is nobody's business here
	for my $connection ($node->connstr('postgres') . ' replication=true', $node->connstr('postgres') . ' replication=database', "host=127.0.0.1 port=$port user=$user dbname=postgres sslmode=disable replication=true") {
		my ($out, $err) = ('', '');
		IPC::Run::run([ 'psql', '-XAt', '-d', $connection, '-c', 'IDENTIFY_SYSTEM' ], '<', \undef, '>', \$out, '2>', \$err);
		like($err, qr/FATAL:  replication connections to this server must use TLS.*HINT.*sslmode=require/s, "$major, clear: refused: $connection");
		is($out, '', 'and nothing said');
	}
	is($node->safe_psql('postgres', 'SELECT 1', connstr => "host=127.0.0.1 port=$port user=$user dbname=postgres sslmode=disable"), '1', 'SQL without TLS is not touched');

	# a standby under the layer, from a base backup whose files are ciphertext, encrypts what it gets
	command_ok([ 'pg_basebackup', '-D', "$tmp/base$major", '-X', 'fetch', '--checkpoint=fast', '--no-sync', '--no-verify-checksums', '-d', $tls ], 'a base backup inside TLS');
	is(join(' ', files_containing($marker, "$tmp/base$major")), '', 'is ciphertext, with the WAL that is fetched as files');
	my $standby = Walcrypt::Node->new("standby$major");
	mkdir $standby->backup_dir;
	mkdir $standby->archive_dir;
	system_or_bail('mv', "$tmp/base$major", $standby->data_dir);
	$standby->use_layer($kek);
	$standby->append_conf('postgresql.conf', 'port = ' . $standby->port . "\nlisten_addresses = ''\nunix_socket_directories = '" . $standby->host . "'\nprimary_conninfo = '$tls application_name=standby'\n");
	$standby->set_standby_mode;
	$standby->start;
	wait_for('the standby', sub { $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'standby'") == 1 });

	my @segments = receive_under_load($node, $tls, $marker, "$tmp/received$major.clear");
	my %what = encrypted_wal_files("$tmp/received$major.clear");
	is(join(' ', grep { $what{$_} ne 'clear' } sort keys %what), '', "$major, clear: all that pg_receivewal got is clear");
	cmp_ok(scalar files_containing($marker, "$tmp/received$major.clear"), '>', 0, 'and the marker is in it');
	my ($out, $err) = ('', '');
	# stock pg_waldump reads it from end to end
	my $waldump = IPC::Run::run([ 'pg_waldump', '-q', '-p', "$tmp/received$major.clear", $segments[0], $segments[-1] ], '<', \undef, '>', \$out, '2>', \$err);
	ok($waldump, 'its records follow each other') or diag($err);

	$standby->stop('immediate');
	$standby->start;
	$node->restart;
	$node->safe_psql('postgres', "INSERT INTO letters VALUES (30000, '$marker after the restart')");
	$node->wait_for_catchup('standby', 'replay', $node->lsn('flush'));
	is(facts($standby), facts($node), 'the standby has the same rows');
	%what = encrypted_wal_files($standby->data_dir . '/pg_wal');
	is(join(' ', grep { $what{$_} !~ /^(encrypted|empty)$/ } sort keys %what), '', 'its WAL is encrypted');
	%what = encrypted_wal_files($node->data_dir . '/pg_wal');
	is(join(' ', grep { $what{$_} !~ /^(encrypted|empty)$/ } sort keys %what), '', 'so is the primary\'s');
	$_->safe_psql('postgres', 'CHECKPOINT') for $node, $standby;
	is(join(' ', files_containing($marker, $standby->data_dir, $node->data_dir)), '', 'the marker is in neither directory');
	$standby->promote;
	is($standby->safe_psql('postgres', 'SELECT count(*) FROM letters'), '4002', 'it is promoted');
	$_->check_integrity($_->name . ', clear throughout') for $standby, $node;
	my ($rc, $o, $e) = ctl_output('verify', '-D', $standby->data_dir, '--kek', $kek);
	is($rc, 0, 'verify is clean on it') or diag($o . $e);
	return;
}

sub clear_refused
{
	local $ENV{WALCRYPT_WALSENDER} = 'clear';
	my $node = Walcrypt::Node->new('none');
	$node->init_encrypted($kek, allows_streaming => 1);
	is($node->start(fail_ok => 1), 0, "$major, without TLS: clear is refused");
	like(slurp_file($node->logfile), qr/FATAL:  WALCRYPT_WALSENDER=clear needs a server with TLS.*HINT:  This one was built without it/s, 'and said');
	return;
}

files_only();
if (`pg_config --configure` =~ /openssl/) { clear_throughout(); } else { clear_refused(); }
done_testing();
