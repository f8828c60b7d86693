# Replication commands, on PostgreSQL 17.
use strict;
use warnings;

# loaded at compile time: their INIT blocks would come too late inside the do
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use File::Basename;

use_postgres(17);
do './' . dirname($0) . '/201_commands.pl' or die $@ || $!;
