# Page checksums of base backups, on PostgreSQL 16.
use strict;
use warnings;

# loaded at compile time: their INIT blocks would come too late inside the do
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use File::Basename;

use_postgres(16);
do './' . dirname($0) . '/104_storage_checksums.pl' or die $@ || $!;
