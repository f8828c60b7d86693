# Goal: an archive that is written by pg_receivewal through the proxy goes on through rotations, and a base backup from before the first is
# recovered from it to a moment between them, and to the end, when primary and proxy are gone. The archive's keyset knows the first WAL epoch only: the proxy translates.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my %node = map { $_ => Walcrypt::Node->new($_) } qw(red blue green restored);
my $red = $node{red};
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 200ms\nwal_keep_size = 256MB\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t (at text)");
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => $red->connstr_for_proxy, datadir => $red->data_dir },
	blue => { conninfo => $node{blue}->connstr_for_proxy, datadir => $node{blue}->data_dir, keyset => 'blue' },
	green => { conninfo => $node{green}->connstr_for_proxy, datadir => $node{green}->data_dir, keyset => 'green' },
	archive => { profile => 1, keyset => 'archive' } });
$proxy->key_init($_) for qw(blue green archive);
$proxy->start;
my $tmp = PostgreSQL::Test::Utils::tempdir();
my ($backup, $archive) = ($node{restored}->data_dir, "$tmp/archive");
mkdir $archive;
my $receiver = in_background("$tmp/receivewal", 'pg_receivewal', '-D', $archive, '-d', $proxy->connstr('archive') . ' application_name=archiver', '--synchronous');
END { my $status = $?; kill('KILL', $receiver) if $receiver; $? = $status; }
wait_for('the archive to stream', sub { $proxy->console('SHOW STANDBYS') =~ /^archive\|/m });
system_or_bail('pg_basebackup', '-D', $backup, '-d', $proxy->connstr('archive'), '--checkpoint=fast', '--no-sync', '-X', 'none');

# A row, and WAL up to it in the archive.
my $now = 'red';
sub write_row
{
	my ($what) = @_;
	my $lsn = $node{$now}->safe_psql('postgres', "INSERT INTO t VALUES ('$what'); SELECT pg_walfile_name(pg_switch_wal())");
	$node{$now}->safe_psql('postgres', 'CREATE TABLE IF NOT EXISTS more (i int); INSERT INTO more VALUES (1)');
	wait_for("$lsn in the archive", sub { -e "$archive/$lsn" });
	return;
}
sub go
{
	my ($to) = @_;
	$proxy->rotate($node{$now}, $node{$to});
	$now = $to;
	return;
}
write_row('in clear');
go('blue');
write_row('under the first epoch');
my $between = $node{blue}->safe_psql('postgres', 'SELECT now()');
wait_for('the time to pass', sub { $node{blue}->safe_psql('postgres', "SELECT now() > '$between'::timestamptz + '1s'") eq 't' });
go('green');
write_row('under the second epoch');
my $last = $node{green}->safe_psql('postgres', "INSERT INTO t VALUES ('in the last segment'); SELECT pg_current_wal_flush_lsn()");
wait_for("$last in the archive", sub { $node{green}->safe_psql('postgres', "SELECT flush_lsn >= '$last' FROM pg_stat_replication WHERE application_name = 'archiver'") eq 't' });
kill('TERM', $receiver);
waitpid($receiver, 0);
$receiver = 0;

my @files = glob("$archive/0000*");
my %epochs = map { $_ => 1 } map { @{ $_->{epochs} // [] } } @{ decode_json(ctl('wal', '--json', grep { /[0-9A-F]{24}$/ } @files)) };
is(join(' ', sort keys %epochs), '1', 'the archive has the epoch that its keyset knows');
my %what = encrypted_wal_files($archive);
is(join(' ', grep { $what{$_} eq 'clear' || $what{$_} eq 'mixed' } sort keys %what), '', 'and nothing in clear');

# what was written before the last rotation can be read: in the archive, and what blue has left, by the keys of green, whose newest epoch is another one
for my $where (['the archive', $archive, '--keyset', 'archive', '--config', $proxy->conf], ["blue, by green's keys", $node{blue}->data_dir . '/pg_wal', '-D', $node{green}->data_dir, '--kek', $proxy->kek_uri]) {
	my ($name, $dir, @keys) = @$where;
	my $text = '';
	for my $file (grep { m{/00000002[0-9A-F]{16}$} } glob("$dir/*")) {
		ctl('wal', $file, '--decrypt', "$tmp/clear", @keys);
		$text .= slurp_file("$tmp/clear");
		unlink "$tmp/clear";
	}
	ok(index($text, 'under the first epoch') >= 0, "$name: WAL of the first epoch can be read");
}

# to a moment between the rotations, and to the end; of the cluster and the proxy nothing is left by then
$node{$now}->stop;
$proxy->stop;
my $restored = $node{restored};
$restored->append_conf('postgresql.auto.conf', 'port = ' . $restored->port . "\nunix_socket_directories = '" . $restored->host . "'\nrestore_command = 'cp $archive/%f %p || cp $archive/%f.partial %p'\n");
$restored->use_layer($proxy->kek_uri);
for my $target ($between, undef) {
	append_to_file("$backup/recovery.signal", '');
	system_or_bail('cp', '-a', $backup, "$tmp/copy") if defined $target;
	$restored->append_conf('postgresql.auto.conf', "recovery_target_time = '$target'\nrecovery_target_action = 'promote'\n") if defined $target;
	$restored->start;
	$restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die;
	is($restored->safe_psql('postgres', "SELECT string_agg(at, ', ') FROM t"), join(', ', 'in clear', 'under the first epoch', defined $target ? () : ('under the second epoch', 'in the last segment')),
		defined $target ? 'recovered to a moment between the rotations' : 'recovered to the end, across both');
	$restored->stop;
	system_or_bail('rm', '-rf', $backup);
	system_or_bail('cp', '-a', "$tmp/copy", $backup) if defined $target;
}
done_testing();
