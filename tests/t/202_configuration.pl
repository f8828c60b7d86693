# Goal: what is wrong in a configuration is said by walcrypt-proxy -t and by a start alike: one line, the option's own line in the
# file, and what to write instead.
use strict;
use warnings;
use Cwd ();
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;

my $dir = Cwd::realpath(PostgreSQL::Test::Utils::tempdir());
my $conf = "$dir/walcrypt.ini";
mkdir "$dir/keystore", 0700;
mkdir "$dir/sockets", 0700;
kek_file("$dir/kek");

# each line with a name, so that a row can replace or remove it
my @good = (
	[ main => '[walcrypt]' ], [ listen_port => 'listen_port = 0' ], [ sockets => 'unix_socket_dir = sockets' ], [ auth => 'auth_type = trust' ],
	[ keystore => 'keystore = keystore' ], [ admin => 'admin_users = boss' ], [ kek => '[kek site]' ], [ uri => 'uri = file:kek' ],
	[ red => '[node red]' ], [ conninfo => 'conninfo = host=127.0.0.1 port=1 user=x' ], [ red_keyset => 'keyset = none' ],
	[ blue => '[node blue]' ], [ keyset => 'keyset = blue' ], [ blue_kek => 'kek = site' ]);
sub write_conf
{
	my (%change) = @_;
	open(my $f, '>', $conf) or die;
	print $f map { my $line = exists $change{ $_->[0] } ? $change{ $_->[0] } : $_->[1]; defined $line ? "$line\n" : () } @good;
	close $f;
	chmod 0600, $conf;
	return;
}
sub test
{
	my ($out, $err) = ('', '');
	IPC::Run::run([ $Walcrypt::proxy, @_ ], '<', \undef, '>', \$out, '2>', \$err);
	my $rc = $? >> 8;
	$err =~ s/^[-0-9]+ [0-9:.]+ \S+ (?:\[\d+\] )?//mg;
	return ($rc, $out, $err);
}
write_conf();
ctl('key', 'init', 'blue', '--config', $conf, '--system-identifier', '7000000000000000001');

my ($rc, $out, $err) = test('-t', '-c', $conf);
is($rc, 0, 'a good file') or diag($err);
is($out, "$conf: the configuration is fine: 2 nodes and profiles\n", 'and -t says so');
{
	my $here = Cwd::getcwd();
	chdir $dir;
	($rc, $out) = test('-t', '-c', 'walcrypt.ini');
	chdir $here;
	is($out, "$conf: the configuration is fine: 2 nodes and profiles\n", 'a relative name is shown in full');
}

# what is changed, exit status, line, the message, the hint
my @rows = (
	[ { blue_kek => "kek = site\nupstream = green" }, 2, 15, 'there is no [node green]', 'upstream is the name of a [node ...] with a conninfo.' ],
	[ { blue_kek => "kek = site\nupstream = blue" }, 2, 15, 'node "blue" cannot stream from itself' ],
	[ { red_keyset => "keyset = none\nupstream = blue" }, 2, 12, '[node blue] has no conninfo', 'Say there how the server is reached.' ],
	[ { conninfo => 'conninfo = host=x prot=1' }, 2, 10, 'conninfo is no connection string of libpq', 'Write it as host=... port=... user=..., or as postgresql://user@host:port.', qr/invalid connection option "prot"/ ],
	[ { conninfo => 'conninfo = password=secret word' }, 2, 10, 'conninfo is no connection string of libpq', qr/^Write it as/, qr/there is a password in it/ ],
	[ { auth => "auth_type = trust\nauth_conninfo = password=secret word" }, 2, 5, 'auth_conninfo is no connection string of libpq', qr/^Write it as/, qr/there is a password in it/ ],
	[ { conninfo => 'conninfo = "host=x"' }, 2, 10, 'the value of conninfo stands in quotes', 'A value is the rest of its line as it stands: take the quotes away.' ],
	[ { uri => 'uri = vault:x' }, 2, 8, 'key provider "vault" is not known', 'docs/providers.md has them all; file:PATH is one.' ],
	[ { uri => 'uri = kek' }, 2, 8, 'key provider is not of the form SCHEME:SOURCE', 'docs/providers.md has them all; file:PATH is one.' ],
	[ { uri => 'uri = command:' }, 2, 8, 'key provider "command:" names no source after the colon', 'docs/providers.md says how it is written.' ],
	[ { uri => 'uri = command:echo ' . '0' x 64 }, 6, 8, 'key provider holds 64 hexadecimal digits: a cluster key does not belong there', qr/Keep the key where the provider fetches it from/ ],
	[ { uri => 'uri = file:gone' }, 2, 8, "could not look at cluster key file \"$dir/gone\": No such file or directory", 'The first walcrypt-ctl key init NAME --create-kek makes the file; one that is lost comes from its copy.' ],
	[ { uri => 'uri = file:keystore' }, 2, 8, "cluster key file \"$dir/keystore\" is not a regular file", undef ],
	[ { keyset => 'keyset = blu' }, 6, 13, "there is no keyset \"blu\" in keystore \"$dir/keystore\"", 'Make it: walcrypt-ctl key init blu. Known are: blue.' ],
	[ { keyset => 'keyset = Blue' }, 2, 13, '"Blue" in keyset is not a name', 'A name has at most 63 of a-z, 0-9, _ and -, and begins with a letter or _.' ],
	[ { blue_kek => 'kek = sight' }, 2, 14, 'there is no [kek sight]', 'Known are: site.' ],
	[ { blue_kek => undef }, 2, 13, '[node blue] has a keyset, but no kek', 'kek names the [kek ...] section whose cluster key wraps the keyset.' ],
	[ { keyset => 'keyset = none' }, 2, 14, '[node blue] has a kek, but keyset = none', 'A clear node needs no cluster key: take the kek away, or name a keyset.' ],
	[ { admin => 'admin_users = boss, blue' }, 2, 6, '"blue" in admin_users is the name of a node or profile', "Give the console's users names of their own." ],
	[ { admin => "admin_users = 'boss'" }, 2, 6, 'the value of admin_users stands in quotes', 'A value is the rest of its line as it stands: take the quotes away.' ],
	[ { admin => 'admin_users = boss,,x' }, 2, 6, 'admin_users has an empty member', undef ],
	[ { sockets => 'unix_socket_dir = gone' }, 2, 3, "could not look at unix_socket_dir \"$dir/gone\": No such file or directory", qr/^Make it/ ],
	[ { keystore => 'keystore = gone' }, 2, 5, "could not look at keystore \"$dir/gone\": No such file or directory", qr/^walcrypt-ctl key init NAME makes it/ ],
	[ { sockets => 'unix_socket_dir = ' . '/x' x 60 }, 2, 3, 'unix_socket_dir "' . '/x' x 60 . '" is too long', qr/^It has at most \d+ bytes\.$/ ],
	[ { keystore => 'keystore = kek' }, 2, 5, "keystore \"$dir/kek\" is not a folder", undef ],
	[ { keystore => undef }, 2, 1, 'keystore is not set', undef ],
	[ { auth => undef }, 2, 1, 'auth_type is not set', 'For a proxy that listens on loopback or a Unix socket only: auth_type = trust' ],
	[ { sockets => 'timeout = 5s' }, 2, 3, 'unknown setting "timeout" in [walcrypt]', 'It belongs into [kek].' ],
	[ { sockets => 'color = red' }, 2, 3, 'unknown setting "color" in [walcrypt]', 'docs/configuration.md lists them all.' ],
	[ { listen_port => 'listen_port = many' }, 2, 2, 'listen_port = "many" is not a number', 'It lies between 0 and 65535.' ],
	[ { listen_port => 'listen_port = 1', sockets => 'listen_addr = 10.0.0.1' }, 2, 3, 'listen_addr 10.0.0.1 with auth_type = trust would let anybody in', 'Listen on 127.0.0.1, ::1, localhost or a Unix socket, or set auth_type = scram-sha-256.' ],
	[ { sockets => undef }, 2, 2, 'listen_port is 0 and unix_socket_dir is not set: nothing to listen on', undef ],
	[ { auth => 'auth_type trust' }, 2, 4, 'line is neither a [section], a comment nor name = value', undef ],
);
for my $row (@rows) {
	my ($change, $status, $line, $text, $hint, $detail) = @$row;
	write_conf(%$change);
	my @lines = split(/\n/, (my @got = test('-t', '-c', $conf))[2]);
	is($got[0], $status, "$text: exit status");
	is($lines[0] // '', "FATAL:  $conf:$line: $text", "$text: the line and the words");
	my ($said) = $got[2] =~ /HINT:\s+(.*)/;
	ref $hint ? like($said, $hint, "$text: the hint") : is($said, $hint, "$text: the hint");
	like($got[2], $detail, "$text: the detail") if defined $detail;
	unlike($got[2], qr/secret|word"/, "$text: no password is shown");
	my @start = test('-c', $conf);
	is((split(/\n/, $start[2]))[0], $lines[0], "$text: a start says the same");
}
open(my $f, '>', $conf) or die;
print $f "[kek site]\nuri = file:kek\n";
close $f;
($rc, $out, $err) = test('-t', '-c', $conf);
is($rc, 2, 'a file without [walcrypt] is none of the proxy\'s');
like($err, qr/^FATAL:  "\Q$conf\E" has no \[walcrypt\] section$/m, 'and it is said');

# a proxy that was started with a relative name
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => 'host=127.0.0.1 port=1' } });
my ($folder, $name) = $proxy->conf =~ m{^(.*)/([^/]+)$};
$proxy->start(wrapper => [ 'sh', '-c', "cd '$folder' && exec \"\$1\" -c $name", 'sh' ]);
my $full = Cwd::realpath($proxy->conf);
like($proxy->console('SHOW STATUS'), qr/^config_file\|\Q$full\E$/m, 'the console shows its full name');
like($proxy->console('SHOW CONFIG'), qr/^keystore\|\Q@{[ Cwd::realpath($proxy->keystore) ]}\E\|/m, 'and full paths');
# a limit of 0 would stop no core that is piped to a program
sub core_limit { my ($pid) = @_; return slurp_file("/proc/$pid/limits") =~ /^Max core file size\s+\S+\s+(\S+)/m ? $1 : 'none'; }
is(core_limit($proxy->pid), core_limit('self') eq '0' ? 0 : 1, 'the proxy leaves no core');
my $at = $proxy->log_size;
kill('HUP', $proxy->pid);
wait_for_file_line($proxy->logfile, qr/reloaded/, $at);
ok(1, 'it reads it again');
$proxy->stop;

# where the C library's large copies are slow it is started under a setting that mends that, the user's own words kept
my ($major, $minor) = `getconf GNU_LIBC_VERSION` =~ /(\d+)\.(\d+)/;
my $slow  = slurp_file('/proc/cpuinfo') =~ /AuthenticAMD/ && $major == 2 && $minor < 40;
my $movsb = 'glibc.cpu.x86_rep_movsb_threshold';
for my $case ([ undef, "$movsb=1073741824" ], [ 'glibc.malloc.arena_max=2', "glibc.malloc.arena_max=2:$movsb=1073741824" ], [ "$movsb=8192", "$movsb=8192" ]) {
	my ($given, $then) = @$case;
	local $ENV{GLIBC_TUNABLES} = $given;
	delete $ENV{GLIBC_TUNABLES} unless defined $given;
	$proxy->start;
	# glibc itself ends each setting there by a NUL as it reads them
	my ($is) = slurp_file('/proc/' . $proxy->pid . '/environ') =~ /(?:^|\0)GLIBC_TUNABLES=((?:glibc\.[^\0]*\0)*)/;
	$is = join(':', split(/\0/, $is)) if defined $is;
	is($is, $slow ? $then : $given, 'GLIBC_TUNABLES, from ' . ($given // 'none'));
	is((slurp_file('/proc/' . $proxy->pid . '/comm') =~ /(.*)/)[0], 'walcrypt-proxy', 'the process keeps its number and its name');
	$proxy->stop;
}
done_testing();
