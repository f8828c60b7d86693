# Goal: Debian's pgBackRest backs up an encrypted cluster, archives its WAL and restores it to a point in time, without the storage layer: its
# repository holds ciphertext. Backups go on after a rotation of the keys; a backup from before it is recovered across it, once it has the epochs.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $marker = 'marker-631-gesichert';
my $tmp = PostgreSQL::Test::Utils::tempdir();
my %node = map { $_ => Walcrypt::Node->new($_) } qw(red blue green restored);

# The sample, with this machine's paths. Nothing is compressed, so that the marker could be seen.
sub configure
{
	my ($name, $repository) = @_;
	my $n = $node{$name};
	my %set = (
		'repo1-path' => "$tmp/$repository", 'pg1-path' => $n->data_dir, 'pg1-port' => $n->port, 'pg1-socket-path' => $n->host, 'pg1-user' => (getpwuid($<))[0],
		'log-path' => "$tmp/log", 'lock-path' => "$tmp/lock-$name", 'spool-path' => "$tmp/spool-$name", 'compress-type' => 'none');
	my $text = slurp_file('conf/pgbackrest/pgbackrest.conf');
	$text =~ s/^#? ?$_=.*\n//m for keys %set;
	my %general = map { $_ => 1 } grep { !/^pg1/ } keys %set;
	$text =~ s/^(\[global\]\n)/$1 . join('', map { "$_=$set{$_}\n" } sort keys %general)/me or die;
	$text =~ s/^(\[main\]\n)/$1 . join('', map { "$_=$set{$_}\n" } grep { !$general{$_} } sort keys %set)/me or die;
	append_to_file($n->basedir . '/pgbackrest.conf', $text);
	return;
}
mkdir "$tmp/log";
configure('red', 'plain');
configure($_, 'encrypted') for qw(blue green restored);

sub pgbackrest_output
{
	my ($name, @args) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'pgbackrest', '--config=' . $node{$name}->basedir . '/pgbackrest.conf', '--stanza=main', '--log-level-console=warn', @args ], '<', \undef, '>', \$out, '2>', \$err);
	my $rc = $? >> 8;
	print "# pgbackrest @args: exit $rc\n", map { "#   $_\n" } split(/\n/, $args[0] eq 'info' ? $err : $out . $err);
	return ($rc, $out, $err);
}
sub pgbackrest
{
	my ($name, @args) = @_;
	my ($rc, $out, $err) = pgbackrest_output($name, @args);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($rc, 0, "$name: pgbackrest @args");
	# that the timeline is another one is what makes it compare files by their contents
	my @warnings = grep { /WARN/ && !/a timeline switch has occurred since the .* backup, enabling delta checksum/ } split(/\n/, "$out$err");
	is(join("\n", @warnings), '', '... without a warning') if $args[0] eq 'backup';
	return $out;
}
sub backup
{
	my ($name, $type) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	pgbackrest($name, 'backup', "--type=$type");
	my $last = decode_json(pgbackrest($name, 'info', '--output=json'))->[0]{backup}[-1];
	is($last->{type}, $type, "$name: the backup $last->{label}");
	return $last->{label};
}

# archive_command runs in the data directory; each node has its own configuration beside it
my $red = $node{red};
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 200ms\nwal_keep_size = 256MB\nlog_statement = none\narchive_mode = on\n"
	. "archive_command = 'pgbackrest --config=\"\$(dirname \"\$PWD\")/pgbackrest.conf\" --stanza=main archive-push %p'\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT 'in clear' AS at, '$marker' || i AS text FROM generate_series(1, 20000) i; CREATE INDEX ON t (text)");
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => $red->connstr_for_proxy, datadir => $red->data_dir },
	map { $_ => { conninfo => $node{$_}->connstr_for_proxy, datadir => $node{$_}->data_dir, keyset => $_ } } qw(blue green) });
$proxy->key_init($_) for qw(blue green);
$proxy->key_init('archive', '--own-wal-key');
ctl('key', 'new-epoch', 'archive', '--timeline', 2, '--config', $proxy->conf); # for key sync: a second epoch, but of another WAL key
$proxy->start;

# the control: of a plain cluster the repository has everything
pgbackrest('red', 'stanza-create');
pgbackrest('red', 'check');
backup('red', 'full');
my @plain = files_containing($marker, "$tmp/plain");
cmp_ok(scalar(grep { m{/backup/} } @plain), '>', 0, 'control: a plain cluster\'s repository holds the marker in its backup');
cmp_ok(scalar(grep { m{/archive/} } @plain), '>', 0, '... and in its archive');

my $now = 'red';
sub go
{
	my ($to) = @_;
	$proxy->rotate($node{$now}, $node{$to});
	$now = $to;
	return;
}
my @written = 'in clear';
sub write_rows
{
	my ($what) = @_;
	$node{$now}->safe_psql('postgres', "INSERT INTO t SELECT '$what', '$marker$what' || i FROM generate_series(1, 2000) i");
	push @written, $what;
	return;
}
# A moment that every commit of before is older than, and every later one younger.
sub moment
{
	my $at = $node{$now}->safe_psql('postgres', 'SELECT clock_timestamp()');
	$node{$now}->poll_query_until('postgres', "SELECT clock_timestamp() > '$at'::timestamptz + '1s'") or die;
	return $at;
}

# the encrypted cluster
go('blue');
pgbackrest('blue', 'stanza-create');
pgbackrest('blue', 'check');
# pgBackRest's own look at page checksums is one at ciphertext: it calls every page bad, so the sample turns it off
my (undef, $said, $err) = pgbackrest_output('blue', 'backup', '--type=full', '--checksum-page');
like($said . $err, qr/invalid page checksums? found in file .*base\//, 'with checksum-page pgBackRest takes ciphertext for damage');

write_rows('before the full backup');
my $full = backup('blue', 'full');
write_rows('before the differential backup');
backup('blue', 'diff');
write_rows('before the incremental backup');
backup('blue', 'incr');
write_rows('before the moment');
my ($moment, @before) = (moment(), @written);
write_rows('after the moment');

# the keys are rotated, and backups go on from another node with other keys
go('green');
write_rows('under the second epoch');
my $later = backup('green', 'diff');
write_rows('after the last backup');
$node{green}->safe_psql('postgres', 'SELECT pg_switch_wal()');
pgbackrest('green', 'check');
pgbackrest('green', 'verify');
is(join(' ', files_containing($marker, "$tmp/encrypted", "$tmp/log", glob("$tmp/spool-*"))), '', 'the marker is nowhere in the encrypted cluster\'s repository, its logs and spools');
my @segments = glob("$tmp/encrypted/archive/main/15-1/*/*");
cmp_ok(scalar(grep { m{/00000002[0-9A-F]{16}-} } @segments), '>', 3, 'there are segments in it, of the first encrypted timeline');
cmp_ok(scalar(grep { m{/00000003[0-9A-F]{16}-} } @segments), '>', 0, '... and of the second');

# restores; of the cluster and the proxy nothing is left by then
$node{green}->stop;
$proxy->stop;
my $restored = $node{restored};
sub restore
{
	my (@args) = @_;
	system_or_bail('rm', '-rf', $restored->data_dir);
	mkdir $restored->data_dir, 0700;
	pgbackrest('restored', 'restore', '--archive-mode=off', @args);
	$restored->append_conf('postgresql.auto.conf', 'port = ' . $restored->port . "\nunix_socket_directories = '" . $restored->host . "'\n");
	return;
}
my $written = "SELECT string_agg(DISTINCT at, ', ' ORDER BY at) FROM t";
sub promoted_with
{
	my ($name, @rows) = @_;
	$restored->start;
	$restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die;
	is($restored->safe_psql('postgres', $written), join(', ', sort @rows), "$name: every row of before, and none of after");
	$restored->check_integrity($name);
	return;
}
restore('--type=time', "--target=$moment", '--target-action=promote');
ok(!-e $restored->data_dir . '/postmaster.pid', 'restored');
like(slurp_file($restored->data_dir . '/postgresql.auto.conf'), qr/^shared_preload_libraries = .*libwalcrypt-storage/m, 'the guard has come along');
$restored->use_layer(undef);
isnt($restored->start(fail_ok => 1), 1, 'without the storage layer it does not start');
$restored->use_layer($proxy->kek_uri);
promoted_with('to a moment', @before);

# a backup from before the rotation, to the end of the archive: it lacks the second epoch
restore("--set=$full", '--type=default');
my $offset = -s $restored->logfile;
$restored->start(fail_ok => 1); # it may let clients in before it comes to that
wait_for('its end', sub { !-e $restored->data_dir . '/postmaster.pid' });
$restored->_update_pid(0);
like(slurp_from($restored->logfile, $offset), qr/epoch 2/, 'a backup from before the rotation is not recovered across it: the epoch that it lacks is named');
ctl('key', 'sync', '-D', $restored->data_dir, '--config', $proxy->conf);
promoted_with('with the keystore\'s epochs, across the rotation', @written);

# the backup of the other node, which builds on files that pgBackRest has compared by their checksums
restore("--set=$later", '--type=default');
promoted_with('the differential backup after the rotation', @written);
my ($rc, $out);
($rc, $out, $err) = ctl_output('verify', '-D', $restored->data_dir, '--kek', $proxy->kek_uri);
is($rc, 0, 'walcrypt-ctl verify looks at the page checksums that pgBackRest cannot look at') or diag($out, $err);
done_testing();
