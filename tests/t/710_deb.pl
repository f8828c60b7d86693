# Goal: the Debian packages are built from the tree by an ordinary user, lintian has nothing to say about them, and on a bare Debian 12
# they can be installed, used as README.Debian says, upgraded and purged: nothing starts by itself, configuration and keys outlive an
# upgrade and a purge, and of everything else nothing is left.
#
# The Debian is unpacked into a folder of the test's own (scripts/debian-root) and entered in a user namespace, as root with fakeroot
# that keeps who owns what, or as the user walcrypt. Played: systemctl, because systemd cannot run there.
use strict;
use warnings;
use Cwd ();
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

delete $ENV{$_} for grep { /^CCACHE_/ } keys %ENV;    # of whoever runs the tests, who may be another user
sub output
{
	my @command = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err);
	return (($? & 127) || $? >> 8, $out, $err);
}

my @apart = qw(unshare --user --keep-caps --mount --pid --fork --kill-child);
my @root = qw(--map-user=0 --map-group=0);
my ($rc, $out, $err) = output(@apart, @root, 'true');
plan skip_all => "this machine lets an ordinary user have no namespaces: $err" if $rc != 0;
my $debian = $ENV{WALCRYPT_DEBIAN} // die "WALCRYPT_DEBIAN is not set: run scripts/debian-root, then the tests with scripts/staged\n";

# ---- built, by whoever runs this
my $dir = Cwd::realpath(PostgreSQL::Test::Utils::tempdir());
($rc, $out, $err) = output('scripts/deb', "$dir/new");
is($rc, 0, 'the packages are built') or die $err;
my ($version) = ctl('--version') =~ /(\S+)$/;
my @debs = map { "$dir/new/${_}_${version}_amd64.deb" } qw(walcrypt-server walcrypt-proxy);
ok(-f $_, "there is $_") for @debs;

($rc, $out, $err) = output('lintian', '--fail-on', 'error,warning', '--tag-display-limit', '0', @debs);
is("$rc $out", '0 ', 'lintian has nothing to say');
like((output('lintian', '--no-override', $debs[1]))[1], qr/non-standard-dir-perm/, 'it would');

# the same as an older version, whose sample of the configuration was another
for my $deb (@debs) {
	my $old = "$dir/old";
	system('dpkg-deb', '-R', $deb, $old) == 0 or die;
	system('sed', '-i', "s/\\b\Q$version\E/0.0.1/", "$old/DEBIAN/control") == 0 or die;
	if (-f "$old/etc/walcrypt/walcrypt.ini") { append_to_file("$old/etc/walcrypt/walcrypt.ini", "# as it was\n") }
	system("dpkg-deb --root-owner-group -b $old $dir >/dev/null && rm -r $old") == 0 or die;
}
my @old = map { "$dir/${_}_0.0.1_amd64.deb" } qw(walcrypt-server walcrypt-proxy);

# ---- a bare Debian
my $root = "$dir/root";
mkdir $root;
system('tar', '-xf', $debian, '-C', $root, '--exclude=./dev/*', '--no-same-owner') == 0 or die;
symlink("/proc/self/fd$_->[1]", "$root/dev/$_->[0]") for [ fd => '' ], [ stdin => '/0' ], [ stdout => '/1' ], [ stderr => '/2' ];
my @devices = qw(null zero random urandom);
append_to_file("$root/dev/$_", '') for @devices;
mkdir "$root/packages";
append_to_file("$root/var/tmp/owners", '');
append_to_file("$dir/enter", join "\n", 'set -e', "mount --rbind /proc $root/proc", (map { "mount --bind /dev/$_ $root/dev/$_" } @devices),
	"mount --bind $dir $root/packages", 'user=$1', 'shift',
	'environment="env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive FAKEROOTDONTTRYCHOWN=1"',
	"[ \$user = root ] || exec \$environment chroot $root setpriv --ambient-caps=-all --inh-caps=-all \"\$@\"",
	"exec \$environment chroot $root fakeroot -i /var/tmp/owners -s /var/tmp/owners \"\$@\"", '');

# A command in there, as root; (exit status, stdout, stderr).
sub inside
{
	my ($command) = @_;
	print "# as root: $command\n";
	my @said = output(@apart, @root, 'sh', "$dir/enter", 'root', 'bash', '-c', $command);
	print map { "#   $_\n" } split /\n/, $command =~ /^find/ ? $said[2] : $said[1] . $said[2];
	return @said;
}
# The same as walcrypt. All files are that user's there, but for fakeroot, which does not see this, they would be root's afterwards.
sub as_walcrypt
{
	my ($command) = @_;
	my ($uid, $gid) = slurp_file("$root/etc/passwd") =~ /^walcrypt:[^:]*:(\d+):(\d+):/m or die "there is no user walcrypt\n";
	print "# as walcrypt: $command\n";
	chmod 0600, "$root/etc/walcrypt/kek";    # 0640 is for a file of root's
	my @said = output(@apart, "--map-user=$uid", "--map-group=$gid", 'sh', "$dir/enter", 'walcrypt', 'bash', '-c', $command);
	print map { "#   $_\n" } split /\n/, $said[1] . $said[2];
	inside('chown -R walcrypt:walcrypt /var/lib/walcrypt/keystore; chmod 640 /etc/walcrypt/kek');
	return @said;
}
# every file: type, mode, owner, name; of /etc its contents too. But for what dpkg and passwd remember, and this test's own.
sub files
{
	my ($rc, $found) = inside('find / \( -path /proc -o -path /dev -o -path /packages -o -path /var/lib/dpkg -o -path /var/cache -o -path /var/tmp -o -path /run/adduser \) -prune -o '
		  . '! -path "/etc/*-" ! -name dpkg.log -printf "%y %m %u:%g %p %l\n" | sort; find /etc -type f ! -name "*-" -exec sha256sum {} + | sort -k 2');
	die "no files\n" if $rc != 0 || $found !~ m{^d 755 root:root /usr }m;
	return { map { $_ => 1 } split /\n/, $found };
}
sub differs
{
	my ($before, $after) = @_;
	return join "\n", (map { "- $_" } grep { !$after->{$_} } sort keys %$before), (map { "+ $_" } grep { !$before->{$_} } sort keys %$after);
}
my $install = 'cd /packages && dpkg --force-confold -i';
my $bare = files();

# ---- installed and purged, with nothing done in between
($rc, $out, $err) = inside("$install new/walcrypt-server_${version}_amd64.deb new/walcrypt-proxy_${version}_amd64.deb");
is($rc, 0, 'installed') or diag($err);
isnt(differs($bare, files()), '', 'there is something');
is((inside('walcrypt-proxy --version; walcrypt-ctl --version'))[1], "walcrypt-proxy $version\nwalcrypt-ctl $version\n", 'the programs run');
like((inside('walcrypt-proxy --help'))[1], qr/^Usage: walcrypt-proxy -c FILE$/m, 'walcrypt-proxy --help');
my @modes = ('stat -c "%a %U:%G" /etc/walcrypt /etc/walcrypt/walcrypt.ini /var/lib/walcrypt', "750 root:walcrypt\n640 root:walcrypt\n700 walcrypt:walcrypt\n");
is((inside($modes[0]))[1], $modes[1], 'who may what');
is((inside("dpkg -r walcrypt-proxy && $install new/walcrypt-proxy_${version}_amd64.deb"))[0], 0, 'removed and installed again');
is((inside($modes[0]))[1], $modes[1], 'the same');
is((inside('find /etc/systemd /run -name "walcrypt*"'))[1], '', 'it is not enabled');
is((inside('for page in 8/walcrypt-proxy.8 1/walcrypt-ctl.1 5/walcrypt.ini.5 7/walcrypt-storage.7; do zcat /usr/share/man/man$page.gz | head -n 1 | cut -d " " -f 1-3; done'))[1] =~ tr/\n//, 4, 'the manual pages');
is((inside('readlink -f /usr/libexec/walcrypt/bin/pg_ctl; ls /usr/lib/walcrypt'))[1], "/usr/libexec/walcrypt/shim\nlibwalcrypt-storage.so\n", 'shims and the storage layer');
($rc, $out, $err) = inside('dpkg -P walcrypt-proxy walcrypt-server');
is($rc, 0, 'purged');
is(differs($bare, files()), '', 'nothing is left');

# ---- an older version, set up as README.Debian says
($rc) = inside("$install walcrypt-server_0.0.1_amd64.deb walcrypt-proxy_0.0.1_amd64.deb");
is($rc, 0, 'an older version is installed');
($rc, $out, $err) = inside('runuser -u walcrypt -- walcrypt-proxy -t -c /etc/walcrypt/walcrypt.ini');
isnt($rc, 0, 'the sample is no configuration yet');
like($err, qr/could not look at keystore .*\n.*HINT:  walcrypt-ctl key init NAME makes it/, 'which is said');
my $readme = slurp_file("$root/usr/share/doc/walcrypt-proxy/README.Debian");
my ($kek, $keys) = $readme =~ /^ {6}(od .*\n +install .*)\n {6}runuser -u walcrypt -- (.* key init blue)\n/m or die "README.Debian does not say how\n";
inside("sed -i 's/^listen_port = .*/listen_port = 0/; s,^#unix_socket_dir,unix_socket_dir,' /etc/walcrypt/walcrypt.ini && mkdir /run/walcrypt && chown walcrypt /run/walcrypt");
is((inside($kek))[0], 0, 'a cluster key');
is((inside('stat -c "%a %U:%G" /etc/walcrypt/kek; wc -c </etc/walcrypt/kek'))[1], "640 root:walcrypt\n64\n", 'of root, for walcrypt');
is((as_walcrypt("$keys --system-identifier 7000000000000000001"))[0], 0, 'and keys of a standby');
my ($test) = $readme =~ /^ 3\. (runuser .*)/m or die "README.Debian does not say how\n";
like((inside($test))[1], qr/^\S+: the configuration is fine/, 'now it is one');

# the service
is_deeply([ inside('systemd-analyze verify --man=no /lib/systemd/system/walcrypt-proxy.service') ], [ 0, '', '' ], 'systemd has nothing to say about the unit');
isnt((inside('sed s/^WatchdogSec/WatchdogSecs/ /lib/systemd/system/walcrypt-proxy.service >/tmp/w.service; systemd-analyze verify --man=no /tmp/w.service; rm /tmp/w.service'))[2], '', 'it would');
my ($exposure) = (inside('systemd-analyze --no-pager security --offline=true walcrypt-proxy.service | tail -n 1'))[1] =~ /exposure level for \S+: ([0-9.]+)/;
cmp_ok($exposure, '<=', 2, "the unit's exposure, in systemd's own words from 0 to 10");
my ($exec) = slurp_file("$root/lib/systemd/system/walcrypt-proxy.service") =~ /^ExecStart=(.*)/m;
($rc, $out, $err) = as_walcrypt("$exec 2>/tmp/log & "
	  . 'while kill -0 $! 2>/dev/null && ! grep -q ": .*/run/walcrypt\$" /tmp/log; do sleep 0.1; done; walcrypt-ctl status --json; kill $!; wait $!; echo "ended: $?"; cat /tmp/log >&2; rm /tmp/log');
like($out, qr/"version".*"\Q$version\E".*^ended: 0$/ms, 'the proxy runs as the unit has it, and answers') or diag($err);

# ---- upgraded, under a running service
mkdir "$root/run/systemd" unless -d "$root/run/systemd";
mkdir "$root/run/systemd/system";
append_to_file("$root/usr/local/sbin/systemctl", "#!/bin/sh\necho \"\$*\" >>/var/tmp/systemctl\n");
chmod 0755, "$root/usr/local/sbin/systemctl";
my $told = sub { my $text = slurp_from("$root/var/tmp/systemctl"); unlink "$root/var/tmp/systemctl"; return $text };
inside('echo "# mine" >>/etc/walcrypt/walcrypt.ini; chmod 600 /etc/walcrypt/walcrypt.ini; chown walcrypt /etc/walcrypt/walcrypt.ini; install -m 600 -o walcrypt /dev/null /var/lib/walcrypt/.pgpass');
my $kept = 'find /etc/walcrypt /var/lib/walcrypt -printf "%m %u:%g %p\n" | grep -v dpkg-dist | sort; find /etc/walcrypt /var/lib/walcrypt -type f ! -name "*.dpkg-dist" -exec sha256sum {} + | sort -k 2';
my $before = (inside($kept))[1];
like($before, qr{/keystore/blue/live/relation\.wkey}, 'there are keys');
($rc, $out, $err) = inside("$install new/walcrypt-server_${version}_amd64.deb new/walcrypt-proxy_${version}_amd64.deb");
is($rc, 0, 'upgraded') or diag($err);
is((inside("dpkg-query -W -f '\${Version}\n' walcrypt-proxy walcrypt-server"))[1], "$version\n$version\n", 'to this version');
is((inside($kept))[1], $before, 'configuration and keys are as they were');
like((inside('ls /etc/walcrypt'))[1], qr/^walcrypt\.ini\.dpkg-dist$/m, "and the new sample lies beside one's own");
like($told->(), qr/^\S.* restart walcrypt-proxy\.service$/m, 'the service was restarted');
inside('rm /etc/walcrypt/*.dpkg-dist; echo nonsense >>/etc/walcrypt/walcrypt.ini');
($rc, $out, $err) = inside("$install new/walcrypt-proxy_${version}_amd64.deb");
is($rc, 0, 'once more, with a configuration that it refuses');
unlike($told->(), qr/restart|stop/, 'a proxy that runs goes on');
like($err, qr/walcrypt\.ini:\d+: line is neither.*walcrypt-proxy is not restarted/s, 'and it is said why');
inside("sed -i '/^nonsense/d' /etc/walcrypt/walcrypt.ini");
is((as_walcrypt('walcrypt-ctl key verify blue'))[0], 0, 'the keys open');

# ---- removed, purged
is((inside('dpkg -r walcrypt-proxy'))[0], 0, 'removed');
like($told->(), qr/^stop walcrypt-proxy\.service$/m, 'the service was stopped');
unlink "$root/usr/local/sbin/systemctl";
system('rm', '-r', "$root/run/systemd", "$root/run/walcrypt");
is((inside($kept))[1], $before, 'configuration and keys are as they were');
($rc, $out, $err) = inside('dpkg -P walcrypt-proxy walcrypt-server');
is($rc, 0, 'purged') or diag($err);
like($err, qr/^There are keys in \/var\/lib\/walcrypt/m, 'it says that keys stay');
like($err, qr/^What you have put into \/etc\/walcrypt stays/m, 'and what else does');
my ($how) = $err =~ /under them any more: (.*)/;
is(join("\n", grep { m{^\+} && !m{/var/lib/walcrypt|/etc/(passwd|group|shadow|gshadow)} } split /\n/, differs($bare, files())) =~ s/^\+ [0-9a-f]{64}  .*\n?//mgr =~ s/\n$//r,
	"+ d 750 root:walcrypt /etc/walcrypt \n+ f 640 root:walcrypt /etc/walcrypt/kek ", 'the cluster key and the keys are left');
ok(-f "$root/var/lib/walcrypt/keystore/blue/live/relation.wkey", 'the keys, really');
($rc) = inside("$how && rm -r /etc/walcrypt");
is($rc, 0, 'what it says to do when nothing needs them any more') or diag($err);
is(differs($bare, files()), '', 'leaves nothing');
done_testing();
