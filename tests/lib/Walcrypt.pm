# Helpers for the TAP tests: proxies, encrypted nodes and looking at files from outside.
#
#   my $red  = Walcrypt::Node->new('red');                 a stock server (PostgreSQL::Test::Cluster)
#   $red->init(allows_streaming => 1, extra => ['-k']); $red->start;
#   my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
#   $proxy->key_init('blue'); $proxy->start;
#   my $blue = Walcrypt::Node->new('blue');
#   $blue->init_from_proxy($proxy, 'blue'); $blue->start;   an encrypted standby, under the storage layer
#
# The environment: WALCRYPT_PREFIX (a folder with bin/ and lib/), PG_REGRESS, TESTDIR; scripts/check sets them.
use strict;
use warnings;

package Walcrypt;

use Exporter 'import';
use File::Find;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(ctl ctl_output in_background files_containing wait_for wait_for_file_line encrypted_wal_files page_epochs readable_pages kek_file layer_env rss_kib slurp_from use_postgres postgres_major);

our $prefix = $ENV{WALCRYPT_PREFIX} // die "WALCRYPT_PREFIX is not set: run the tests with scripts/check\n";
our $ctl   = "$prefix/bin/walcrypt-ctl";
our $proxy = "$prefix/bin/walcrypt-proxy";
our $layer = "$prefix/lib/walcrypt/libwalcrypt-storage.so";

# Programs are those of this major version: 15 is what the tests run with, the others come from scripts/postgres. Before the first
# program is run: IPC::Run remembers where it found each.
sub use_postgres
{
	my ($major) = @_;
	my $dir = $ENV{WALCRYPT_POSTGRES} // die "WALCRYPT_POSTGRES is not set: run scripts/postgres, then the tests with scripts/staged\n";
	my $bin = "$dir/$major/postgres/pginstall/bin";
	-x "$bin/postgres" or die "there is no PostgreSQL $major in $dir: run scripts/postgres\n";
	$ENV{PATH} = "$bin:$ENV{PATH}";
	return;
}

# any test with another version: TEST_POSTGRES=17 scripts/staged tests/run tests/t/NNN_name.pl
use_postgres($ENV{TEST_POSTGRES}) if ($ENV{TEST_POSTGRES} // 15) != 15;

# The major version that programs are of.
sub postgres_major
{
	return `postgres -V` =~ /\) (\d+)/ ? $1 : die "there is no postgres in PATH\n";
}

# Run walcrypt-ctl; (exit status, stdout, stderr).
sub ctl_output
{
	my @args = @_;
	my ($out, $err) = ('', '');
	print "# walcrypt-ctl @args\n";
	IPC::Run::run([ $ctl, @args ], '<', \undef, '>', \$out, '2>', \$err);
	my $rc = $? & 127 ? 128 + ($? & 127) : $? >> 8;    # a crash is no exit status 0
	print "# walcrypt-ctl: exit $rc" . ($err ne '' ? ": $err" : '') . "\n";
	return ($rc, $out, $err);
}

# Run walcrypt-ctl and die when it fails; stdout.
sub ctl
{
	my ($rc, $out, $err) = ctl_output(@_);
	die "walcrypt-ctl @_ failed with $rc: $err" if $rc != 0;
	return $out;
}

# A program beside the test, what it says appended to a file, or to two: [ stdout, stderr ]; its process.
sub in_background
{
	my ($log, @command) = @_;
	my $pid = fork() // die "fork: $!";
	return $pid if $pid != 0;
	@SIG{qw(INT TERM)} = ('DEFAULT') x 2;
	open(STDIN, '<', '/dev/null');
	open(STDOUT, '>>', ref $log ? $log->[0] : $log);
	open(STDERR, '>>', ref $log ? $log->[1] : $log);
	exec(@command) or POSIX::_exit(127);
}

# A file with a fresh cluster key; its path.
sub kek_file
{
	my ($path) = @_;
	open(my $random, '<', '/dev/urandom') or die;
	read($random, my $bytes, 32) == 32 or die;
	my $umask = umask(077);
	open(my $f, '>', $path) or die "$path: $!";
	print $f unpack('H*', $bytes) . "\n";
	close $f;
	umask($umask);
	return $path;
}

# The environment under which a stock program runs on an encrypted directory.
sub layer_env
{
	my ($kek, $datadir) = @_;
	my %env = (LD_PRELOAD => $layer, WALCRYPT_KEK => $kek);
	$env{WALCRYPT_DATADIR} = $datadir if defined $datadir;
	return %env;
}

# How many files below the directories hold the bytes; the list in list context. Symbolic links (tablespaces, pg_wal) are followed.
sub files_containing
{
	my ($marker, @dirs) = @_;
	my @found;
	find({
		follow_fast => 1, follow_skip => 2, no_chdir => 1,
		wanted => sub {
			return unless -f $_;
			open(my $f, '<:raw', $_) or return;
			my ($tail, $buf) = ('', '');
			while (read($f, $buf, 1 << 20)) {
				if (index($tail . $buf, $marker) >= 0) { push @found, $File::Find::name; last; }
				$tail = substr($buf, -length($marker));
			}
			close $f;
		} }, grep { -e } @dirs);
	return wantarray ? @found : scalar @found;
}

# Wait until the code is true; returns its value, dies with the text after a time that only a fault reaches.
sub wait_for
{
	my ($what, $code, $seconds) = @_;
	my $end = time() + ($seconds // $PostgreSQL::Test::Utils::timeout_default // 180);
	while (1) {
		my $value = $code->();
		return $value if $value;
		die "timed out waiting for $what\n" if time() > $end;
		sleep(0.05);
	}
}

sub slurp_from
{
	my ($file, $offset) = @_;
	open(my $f, '<:raw', $file) or return '';
	seek($f, $offset // 0, 0);
	local $/;
	my $text = <$f> // '';
	close $f;
	return $text;
}

sub wait_for_file_line
{
	my ($file, $regex, $offset) = @_;
	wait_for("$regex in $file", sub { slurp_from($file, $offset) =~ $regex });
	return -s $file;
}

# Segments of a pg_wal (or archive) directory: name => 'encrypted', 'clear', 'mixed' or 'empty', read without our code.
sub encrypted_wal_files
{
	my ($dir) = @_;
	my %what;
	for my $path (glob("$dir/*")) {
		my ($name) = $path =~ m{/([0-9A-F]{24}(?:\.partial)?)$} or next;
		open(my $f, '<:raw', $path) or next;
		my %seen;
		while (read($f, my $page, 8192)) {
			last if length($page) < 24;
			my ($magic, $info) = unpack('S<S<', $page);
			next if ($magic >> 8) != 0xD1;
			$seen{ $info & 0x8000 ? 'encrypted' : 'clear' }++;
		}
		close $f;
		$what{$name} = keys %seen == 0 ? 'empty' : keys %seen == 2 ? 'mixed' : (keys %seen)[0];
	}
	return %what;
}

# The WAL key epochs of the pages of each timeline in a pg_wal directory: timeline => '1', '1,2', 'clear', read without our code.
sub page_epochs
{
	my ($dir) = @_;
	my %seen;
	for my $path (sort grep { m{/[0-9A-F]{24}$} } glob("$dir/*")) {
		open(my $f, '<:raw', $path) or $!{ENOENT} ? next : die "$path: $!";    # a running server may have recycled it
		my ($in_name) = $path =~ m{/([0-9A-F]{8})[0-9A-F]{16}$};
		while (read($f, my $page, 8192) == 8192) {
			my ($magic, $info, $tli) = unpack('S<S<L<', $page);
			next if ($magic >> 8) != 0xD1 || hex($in_name) != $tli;
			$seen{$tli}{ $info & 0x8000 ? ($info >> 8) & 127 : 'clear' }++;
		}
		close $f;
	}
	return { map { $_ => join(',', sort keys %{ $seen{$_} }) } keys %seen };
}

# How many pages of a data directory's relation files these keys open, and how many there are; by the independent decoder.
sub readable_pages
{
	my ($key_dir, $kek_file, $dir) = @_;
	my ($out, $err) = run_command([ 'python3', '-B', 'tests/decoder/decoder.py', 'readable', '--key-dir', $key_dir, '--kek-file', $kek_file, $dir ]);
	die "decoder.py: $err\n" if $err ne '' || $out !~ /^\d+ \d+$/;
	return split(/ /, $out);
}

sub rss_kib
{
	my ($pid) = @_;
	my ($kib) = slurp_from("/proc/$pid/status") =~ /^VmRSS:\s+(\d+)/m;
	return $kib;
}

package Walcrypt::Node;

# nothing is imported here: names like command_ok would hide the methods
use parent -norequire, 'PostgreSQL::Test::Cluster';
use PostgreSQL::Test::Cluster ();
use Test::More ();

sub _get_env
{
	my ($self, @mods) = @_;
	my %env = $self->SUPER::_get_env(@mods);
	%env = (%env, Walcrypt::layer_env($self->{_walcrypt_kek}, $self->data_dir)) if defined $self->{_walcrypt_kek};
	return %env;
}

# From now on this node's programs run under the storage layer with this cluster key (undef: stock again).
sub use_layer
{
	my ($self, $kek) = @_;
	$self->{_walcrypt_kek} = $kek;
	return $self;
}

# Run a program as this node's programs run; (success, stdout, stderr).
sub run_program
{
	my ($self, @command) = @_;
	local %ENV = $self->_get_env;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([@command], '<', \undef, '>', \$out, '2>', \$err);
	return ($ok, $out, $err);
}

# kill -9 of the postmaster; returns when all its processes are gone. Where nobody reaps orphans at once, a zombie looks alive
# to the next start: its lock files go too.
sub kill9
{
	my ($self) = @_;
	my $pid = $self->{_pid};
	$self->SUPER::kill9;
	return unless defined $pid;
	my $dir = $self->data_dir;
	Walcrypt::wait_for('the server to die', sub {
		return Walcrypt::slurp_from("/proc/$pid/stat") !~ /^\d+ \(.*\) [^Z]/s && !grep { (readlink($_) // '') eq $dir } glob('/proc/[0-9]*/cwd');
	});
	unlink "$dir/postmaster.pid", $self->host . '/.s.PGSQL.' . $self->port . '.lock';
	return;
}

sub connstr_for_proxy
{
	my ($self) = @_;
	return 'host=' . $self->host . ' port=' . $self->port . ' user=' . (getpwuid($<))[0];
}

# A new cluster made encrypted by walcrypt-ctl initdb.
sub init_encrypted
{
	my ($self, $kek, %params) = @_;
	my $extra = delete $params{extra} // [];
	my $initdb = sub {
		Walcrypt::ctl('initdb', '-D', $self->data_dir, '--kek', $kek, @{ delete $params{ctl_options} // [] },
			'--', '-A', 'trust', '-N', @$extra);
	};
	# Cluster::init with its initdb replaced by ours
	no warnings 'redefine';
	my $original = \&PostgreSQL::Test::Utils::system_or_bail;
	local *PostgreSQL::Test::Utils::system_or_bail = sub {
		return $_[0] eq 'initdb' ? $initdb->() : $original->(@_);
	};
	$self->init(%params);
	return $self->use_layer($kek);
}

# One test: PostgreSQL's own checks find nothing wrong with a running node: amcheck with heapallindexed on every B-tree index and
# verify_heapam on every table of every database, then, with the server stopped, pg_checksums. The node stays stopped, with
# restart => 1 it is started again. A standby needs the primary whose WAL it replays, for CREATE EXTENSION: primary => $node.
sub check_integrity
{
	my ($self, $what, %params) = @_;
	my $name = $what // $self->name;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return Test::More::is($self->integrity_findings(%params), '', "$name: amcheck, verify_heapam and pg_checksums find nothing");
}

# Does this node's build have amcheck? That of 16 has no contrib modules; everywhere else a missing one is a fault that the tests find.
sub amcheck_there
{
	my ($self) = @_;
	return $self->safe_psql('postgres', "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'") || Walcrypt::postgres_major() != 16;
}

# What they find, a text that is empty when all is well.
sub integrity_findings
{
	my ($self, %params) = @_;
	my $creator = $params{primary} // $self;
	my ($recovery, $checksums) = split(/\|/, $self->safe_psql('postgres', "SELECT pg_is_in_recovery(), current_setting('data_checksums')"));
	my ($indexes, $tables, @findings) = (0, 0);
	my $amcheck = $creator->amcheck_there;
	for my $db ($amcheck ? split(/\n/, $creator->safe_psql('postgres', 'SELECT datname FROM pg_database WHERE datallowconn')) : ()) {
		$creator->safe_psql($db, 'CREATE EXTENSION IF NOT EXISTS amcheck');
		if ($creator != $self) {
			my $lsn = $creator->lsn('insert');
			$self->poll_query_until($db, "SELECT pg_last_wal_replay_lsn() >= '$lsn'") or die 'the standby ' . $self->name . " does not catch up\n";
		}
		# a parent check locks, which a standby cannot
		my $check = $recovery eq 't' ? 'bt_index_check(c.oid, true)' : 'bt_index_parent_check(c.oid, true, true)';
		my $lasting = "c.relpersistence <> 't'" . ($recovery eq 't' ? " AND c.relpersistence <> 'u'" : '');
		my ($out, $err) = ('', '');
		$self->psql($db, "SELECT count($check) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
			JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid AND i.indisready AND $lasting", stdout => \$out, stderr => \$err);
		$indexes += $out || 0;
		push @findings, "$db: $err" if $err ne '';
		$self->psql($db, "SELECT count(DISTINCT c.oid), string_agg(c.oid::regclass || ', block ' || v.blkno || ', offset ' || coalesce(v.offnum, 0) || ': ' || v.msg, E'\\n')
			FROM pg_class c JOIN pg_am a ON a.oid = c.relam LEFT JOIN LATERAL verify_heapam(c.oid, check_toast => true) v ON true
			WHERE a.amname = 'heap' AND c.relkind IN ('r', 't', 'm') AND $lasting", stdout => \$out, stderr => \$err);
		my ($n, $bad) = split(/\|/, $out || '0|', 2);
		$tables += $n;
		push @findings, "$db: $_" for grep { $_ ne '' } $bad // '', $err;
	}
	push @findings, "only $indexes indexes and $tables tables were looked at" if $amcheck && ($indexes < 100 || $tables < 60);
	$self->stop;
	if ($checksums eq 'on') {
		local %ENV = $self->_get_env;
		my ($out, $err) = ('', '');
		IPC::Run::run([ $self->installed_command('pg_checksums'), '--check', '-D', $self->data_dir ], '<', \undef, '>', \$out, '2>', \$err);
		push @findings, "pg_checksums: $out$err" if $? != 0 || $out !~ /^Bad checksums:  0$/m;
	}
	$self->start if $params{restart};
	return join("\n", @findings);
}

# An encrypted standby NAME built with stock pg_basebackup through the proxy; options: slot, extra.
sub init_from_proxy
{
	my ($self, $proxy, $name, %params) = @_;
	my @slot = defined $params{slot} ? ('-S', $params{slot}) : ();
	push @slot, '-C' if $params{create_slot};
	mkdir $self->backup_dir;
	mkdir $self->archive_dir;
	PostgreSQL::Test::Utils::system_or_bail('pg_basebackup', '-D', $self->data_dir, '-d', $proxy->connstr($name),
		'--checkpoint=fast', '--no-sync', '-R', @slot, @{ $params{extra} // [] });
	# in the file that pg_verifybackup ignores; -R has written a conninfo of its own, the application name is to be the node's
	$self->append_conf('postgresql.auto.conf', 'port = ' . $self->port . "\nunix_socket_directories = '" . $self->host . "'\n"
		. "primary_conninfo = '" . $proxy->connstr($name) . " application_name=" . $self->name . "'\n");
	return $self->use_layer($proxy->kek_uri);
}

# A standby becomes the primary in the plain way: it has replayed everything, the old one stops, it is promoted.
sub take_over
{
	my ($self, $from) = @_;
	$from->wait_for_catchup($self->name, 'replay', $from->lsn('insert'));
	$from->stop;
	$self->promote;
	return;
}

package Walcrypt::Proxy;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $serial = 0;
my @running;

# nodes => { name => { conninfo, keyset, profile } }; listens => { name => { listen_port ... } }; settings => { name => value } for [walcrypt]; kek_uri, kek_options => { ... } for [kek site]; keks => { name => uri } for others; dir, kek to reuse another's.
sub new
{
	my ($class, %params) = @_;
	my $test = File::Basename::basename($0, '.pl');
	my $dir = $params{dir} // "$PostgreSQL::Test::Utils::tmp_check/p_${test}_" . ++$serial;
	mkdir $dir, 0700;
	my $sockets = File::Temp::tempdir('wcpXXXXXX', TMPDIR => 1, CLEANUP => 1);
	my $self = bless {
		dir => $dir, sockets => $sockets, port => PostgreSQL::Test::Cluster::get_free_port(),
		kek => $params{kek} // Walcrypt::kek_file("$dir/kek"), kek_uri => $params{kek_uri}, kek_options => $params{kek_options} // {}, keks => $params{keks} // {}, nodes => $params{nodes} // {}, settings => $params{settings} // {}, listens => $params{listens} // {},
		logfile => "$PostgreSQL::Test::Utils::log_path/${test}_proxy" . ($serial > 1 ? $serial : '') . '.log',
	}, $class;
	mkdir "$dir/keystore", 0700;
	$self->write_conf;
	return $self;
}

sub conf     { return "$_[0]{dir}/walcrypt.ini"; }
sub keystore { return "$_[0]{dir}/keystore"; }
sub logfile  { return $_[0]{logfile}; }
sub log      { return Walcrypt::slurp_from($_[0]{logfile}, $_[1]); }
sub log_size { return -s $_[0]{logfile} // 0; }
sub port     { return $_[0]{port}; }
sub host     { return $_[0]{sockets}; }
sub pid      { return $_[0]{pid}; }
sub kek_uri  { return $_[0]{kek_uri} // "file:$_[0]{kek}"; }
sub tcp      { my ($self, $user) = @_; return "host=127.0.0.1 port=$self->{port} user=$user"; }
sub connstr  { my ($self, $user) = @_; return "host=$self->{sockets} port=$self->{port} user=$user"; }

sub write_conf
{
	my ($self) = @_;
	my %set = (
		listen_addr => '127.0.0.1', listen_port => $self->{port}, unix_socket_dir => $self->{sockets}, auth_type => 'trust',
		keystore => $self->keystore, admin_users => 'walcrypt_admin', stats_users => 'monitor', %{ $self->{settings} });
	my $umask = umask(077);
	open(my $f, '>', $self->conf) or die $self->conf . ": $!";
	print $f "[walcrypt]\n", map { "$_ = $set{$_}\n" } sort grep { defined $set{$_} } keys %set;
	print $f "\n[kek site]\nuri = " . $self->kek_uri . "\n", map { "$_ = $self->{kek_options}{$_}\n" } sort keys %{ $self->{kek_options} };
	print $f map { "\n[kek $_]\nuri = $self->{keks}{$_}\n" } sort keys %{ $self->{keks} };
	for my $name (sort keys %{ $self->{nodes} }) {
		my %node = %{ $self->{nodes}{$name} };
		my $kind = delete $node{profile} ? 'profile' : 'node';
		$node{keyset} //= 'none';
		$node{kek} //= 'site' if $node{keyset} ne 'none';
		print $f "\n[$kind $name]\n", map { "$_ = $node{$_}\n" } sort keys %node;
	}
	for my $name (sort keys %{ $self->{listens} }) {
		my %listen = %{ $self->{listens}{$name} };
		print $f "\n[listen $name]\n", map { "$_ = $listen{$_}\n" } sort keys %listen;
	}
	close $f;
	umask($umask);
	return;
}

# A file of users: name => verifier.
sub write_users
{
	my ($self, %users) = @_;
	my $umask = umask(077);
	open(my $f, '>', "$self->{dir}/users") or die "$self->{dir}/users: $!";
	print $f map { my $name = $_; $name =~ s/"/""/g; "\"$name\" \"$users{$_}\"\n" } sort keys %users;
	close $f;
	umask($umask);
	return "$self->{dir}/users";
}

# Make a keyset for each name; the configured primary must be running (or pass --system-identifier).
sub key_init
{
	my ($self, $name, @options) = @_;
	Walcrypt::ctl('key', 'init', $name, '--config', $self->conf, @options);
	return;
}

# Start; with fail_ok returns 0 when it ends instead of listening.
sub start
{
	my ($self, %params) = @_;
	my $offset = $self->log_size;
	my $pid = $self->{pid} = Walcrypt::in_background($self->{logfile}, @{ $params{wrapper} // [] }, $Walcrypt::proxy, '-c', $self->conf);
	push @running, $self;
	my $socket = "$self->{sockets}/.s.PGSQL.$self->{port}";
	my $up = Walcrypt::wait_for('the proxy to listen', sub {
		return 'ended' if waitpid($pid, POSIX::WNOHANG()) == $pid;
		my $s = IO::Socket::UNIX->new(Peer => $socket) or return 0;
		close $s;
		return 'up';
	});
	if ($up eq 'ended') {
		$self->{pid} = undef;
		return 0 if $params{fail_ok};
		die "the proxy did not start: " . $self->log($offset);
	}
	return 1;
}

# Returns the wait status.
sub stop
{
	my ($self, $signal) = @_;
	return unless defined $self->{pid};
	kill($signal // 'TERM', $self->{pid});
	my $pid = $self->{pid};
	Walcrypt::wait_for('the proxy to end', sub { waitpid($pid, POSIX::WNOHANG()) == $pid });
	$self->{pid} = undef;
	return $?;
}

sub kill9   { return $_[0]->stop('KILL'); }
sub restart { my ($self) = @_; $self->stop; return $self->start; }

# One test: a rotation from one node to another, which both objects know afterwards.
sub rotate
{
	my ($self, $from, $to) = @_;
	my ($rc, $out, $err) = Walcrypt::ctl_output('rotate', '--config', $self->conf, '--to', $to->name);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	Test::More::is($rc, 0, 'rotate to ' . $to->name) or Test::More::diag($out, $err);
	$from->_update_pid(0);
	$to->_update_pid(1);
	return;
}

# One query on the console; psql's unaligned output.
sub console
{
	my ($self, $query) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'psql', '-XAt', '-d', $self->connstr('walcrypt_admin') . ' dbname=walcrypt', '-c', $query ], '<', \undef, '>', \$out, '2>', \$err);
	chomp $out;
	return wantarray ? ($out, $err) : $out;
}

END
{
	# END blocks must not change the test's status
	my $status = $?;
	$_->stop('KILL') for grep { defined $_->{pid} } @running;
	$? = $status;
}

use File::Basename ();
use File::Temp ();
use IO::Socket::UNIX;
use POSIX ();
use IPC::Run ();

1;
