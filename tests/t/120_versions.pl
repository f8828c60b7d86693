# The storage layer takes PostgreSQL 15 to 18, of the builds that it knows, and refuses every other server by name before anything
# is written. The servers are made up (tests/versions/server.c) but for one.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/versions';
mkdir $tmp, 0700;
my $kek = 'file:' . kek_file("$tmp/kek");
ctl('initdb', '-D', "$tmp/data", '--kek', $kek, '--', '-A', 'trust', '-N');

# a library with calls that a server may import
open(my $c, '>', "$tmp/calls.c") or die;
print $c "int io_uring_queue_init(void) { return 0; }\nint copied_by_kernel(void) { return 0; }\n";
close $c;
system_or_bail('gcc', '-shared', '-fPIC', '-o', "$tmp/libcalls.so", "$tmp/calls.c");

my %built;
sub server
{
	my @flags = @_;
	my $key = join(' ', @flags);
	return $built{$key} if $built{$key};
	my $dir = "$tmp/server" . scalar(keys %built);
	mkdir $dir;
	system_or_bail('gcc', '-O2', '-rdynamic', @flags, '-o', "$dir/postgres", 'tests/versions/server.c', "-L$tmp", '-lcalls', "-Wl,-rpath,$tmp");
	return $built{$key} = "$dir/postgres";
}

# (wait status, stdout, stderr) of a server that says this of itself
sub start
{
	my ($program, %says) = @_;
	my $environment = delete $says{environment} // {};
	my $preload = join(' ', @{ delete $says{preload} // [] }, $Walcrypt::layer);
	my %settings = (server_version_num => '150020', server_version => '15.20', block_size => 8192, wal_block_size => 8192, segment_size => 131072,
		max_wal_senders => 10, %says);
	local %ENV = (%ENV, %$environment, LD_PRELOAD => $preload, WALCRYPT_KEK => $kek);
	$ENV{"TEST_$_"} = $settings{$_} for grep { defined $settings{$_} } keys %settings;
	unlink "$tmp/data/postmaster.pid";
	my ($out, $err) = ('', '');
	IPC::Run::run([ $program, "$tmp/data" ], '<', \undef, '>', \$out, '2>', \$err);
	return ($? >> 8, $out, $err);
}

sub taken
{
	my ($name, $read, @how) = @_;
	my ($rc, $out, $err) = start(@how);
	is("$rc $out$err", "0 started, $read bytes from buffers\n", "$name: taken");
	return;
}

sub refused
{
	my ($name, $message, @how) = @_;
	my ($rc, $out, $err) = start(@how);
	is($rc, 1, "$name: does not start");
	like($err, $message, "$name: said");
	is(scalar(() = $err =~ /FATAL/g), 1, "$name: in one line");
	ok(!-e "$tmp/data/postmaster.pid", "$name: nothing is written");
	return;
}

# versions
taken('15', 0, server());
taken('16', 0, server(), server_version_num => '160014', server_version => '16.14');
refused('14', qr/PostgreSQL 14\.9 is not supported by the storage layer.*HINT.*15 to 18/s, server(), server_version_num => '140009', server_version => '14.9');
refused('19', qr/PostgreSQL 19devel is not supported/, server(), server_version_num => '190000', server_version => '19devel');
refused('9.6', qr/PostgreSQL 9\.6\.24 is not supported/, server(), server_version_num => '90624', server_version => '9.6.24');
refused('no version', qr/PostgreSQL of an unknown version is not supported/, server(), server_version_num => undef, server_version => undef);

# builds
refused('other pages', qr/a server built with block_size = 16384 is not supported/, server(), block_size => 16384);
refused('other WAL pages', qr/wal_block_size = 4096/, server(), wal_block_size => 4096);
refused('other segments', qr/segment_size = 262144/, server(), segment_size => 262144);
refused('no word of its processes', qr/does not know this build of the server/, server('-DNO_BACKEND_TYPES'));
refused('a call that goes round the layer', qr/this server uses the call lio_listio, which/, server('-DIMPORT=lio_listio'));
taken('a call that has nothing to do with files', 0, server('-DIMPORT=copied_by_kernel'));

# io_uring: a server that has it is taken as long as it is not used
my @eighteen = (server_version_num => '180006', server_version => '18.6');
my $uring = server('-DIMPORT=io_uring_queue_init', '-DBUFFERS', '-DCALLED');
refused('io_method = io_uring', qr/io_method = io_uring cannot be used.*HINT.*worker/s, $uring, @eighteen, io_method => 'io_uring');
taken('io_method = worker', 0, $uring, @eighteen, io_method => 'worker');
taken('io_method = sync', 0, $uring, @eighteen, io_method => 'sync');
refused('io_uring without the setting', qr/uses the call io_uring_queue_init/, $uring);

# walsenders that read WAL from shared buffers, 17 and 18: made to read files where the call is in the program, refused where it is not
my $called = server('-DBUFFERS', '-DCALLED', '-DTLS');
my ($rc, $out) = start($called);
is($out, "started, " . (1 + 2 + 3) . " bytes from buffers\n", 'before 17 no function is touched');
my $locked = "$tmp/locked_text.so"; # as SELinux's execmod
system_or_bail('gcc', '-shared', '-fPIC', '-D_GNU_SOURCE', '-o', $locked, 'tests/preload/locked_text.c');
for my $major (17, 18) {
	my @version = (server_version_num => "${major}0003", server_version => "$major.3");
	taken("$major: a call to the function", 0, $called, @version);
	taken("$major: WALCRYPT_WALSENDER=files says the same", 0, $called, @version, environment => { WALCRYPT_WALSENDER => 'files' });
	refused("$major: inlined", qr/cannot be made to read WAL from files.*DETAIL.*WALReadFromBuffers.*HINT.*WALCRYPT_WALSENDER=clear/s, server('-DBUFFERS', '-DTLS'), @version);
	refused("$major: not there", qr/cannot be made to read WAL from files/, server('-DTLS'), @version);
	refused("$major: text that may not be changed", qr/cannot be made to read WAL from files: WALReadFromBuffers: could not change program text.*HINT.*WALCRYPT_WALSENDER=clear/s, $called, @version,
		preload => [$locked]);
	taken("$major: no walsenders, nothing to do", 0, server('-DTLS'), @version, max_wal_senders => 0);
	taken("$major: clear inside TLS", 0, server('-DTLS'), @version, ssl => 'on', environment => { WALCRYPT_WALSENDER => 'clear' });
	refused("$major: clear with TLS switched off", qr/WALCRYPT_WALSENDER=clear needs a server with TLS.*HINT.*ssl = on/s, server('-DTLS'), @version, ssl => 'off',
		environment => { WALCRYPT_WALSENDER => 'clear' });
	refused("$major: clear in a build without TLS", qr/needs a server with TLS.*HINT.*built without/s, server(), @version, ssl => 'off', environment => { WALCRYPT_WALSENDER => 'clear' });
	refused("$major: another word", qr/WALCRYPT_WALSENDER is "buffers".*HINT.*files.*clear/s, $called, @version, environment => { WALCRYPT_WALSENDER => 'buffers' });
}

# data directories of other versions are refused before a program runs
for my $major (14, 19) {
	open(my $f, '>', "$tmp/data/PG_VERSION") or die;
	print $f "$major\n";
	close $f;
	for my $command ([ 'exec', '-D', "$tmp/data", '--kek', $kek, '--', 'true' ], [ 'verify', '-D', "$tmp/data", '--kek', $kek ], [ 'key', 'show', '-D', "$tmp/data" ]) {
		my ($status, undef, $err) = ctl_output(@$command);
		is($status, $command->[0] eq 'exec' ? 125 : 6, "$command->[0] on a data directory of $major: exit status");
		like($err, qr/is of PostgreSQL $major, which is not supported.*HINT.*15 to 18/s, '... refused by name');
	}
}
done_testing();
